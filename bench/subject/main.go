// Command subject serves what tidemark is compared with. It listens on a free
// port of the loopback interface, prints its address, and ends with SIGTERM.
//
//	subject floor        tidemark's own server over a store that keeps only heads
//	subject echo FILE    an echo handler that answers the content of FILE
//	subject file FILE    a net/http handler that answers the content of FILE
package main

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"syscall"

	"github.com/labstack/echo/v4"

	"tidemark/mutlog"
	"tidemark/server"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "subject:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	fmt.Printf("http://%s\n", l.Addr())
	switch {
	case len(args) == 1 && args[0] == "floor":
		return server.New(server.Options{
			Log:          mutlog.New(newHeads(), mutlog.DefaultLimits),
			Limits:       mutlog.DefaultLimits,
			MaxBodyBytes: 1 << 20,
			Logger:       slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn})),
		}).Serve(ctx, l)
	case len(args) == 2 && (args[0] == "echo" || args[0] == "file"):
		content, err := os.ReadFile(args[1])
		if err != nil {
			return err
		}
		return serve(ctx, l, constant(args[0], content))
	}
	return fmt.Errorf("none of floor, echo FILE, file FILE: %q", args)
}

func constant(kind string, content []byte) http.Handler {
	if kind == "echo" {
		e := echo.New()
		e.GET("/*", func(c echo.Context) error { return c.Blob(http.StatusOK, "application/json", content) })
		return e
	}
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Content-Length", strconv.Itoa(len(content)))
		w.Write(content)
	})
}

// serve answers requests on l until ctx is done.
func serve(ctx context.Context, l net.Listener, h http.Handler) error {
	s := &http.Server{Handler: h}
	context.AfterFunc(ctx, func() { s.Close() })
	if err := s.Serve(l); err != http.ErrServerClosed {
		return err
	}
	return nil
}
