package server

import (
	"bytes"
	_ "embed"
	htmltemplate "html/template"
	"net/http"
	"strings"
	texttemplate "text/template"

	"github.com/labstack/echo/v4"
)

var (
	//go:embed index.html
	indexHTML string
	//go:embed index.txt
	indexText string

	indexPage  = htmltemplate.Must(htmltemplate.New("index.html").Parse(indexHTML))
	indexPlain = texttemplate.Must(texttemplate.New("index.txt").Parse(indexText))
)

// index answers at / with what this is and where to go: as a page if the
// client accepts HTML, as browsers say, else as text.
func (s *Server) index(c echo.Context) error {
	base := c.Scheme() + "://" + c.Request().Host
	h := c.Response().Header()
	h.Add("Vary", "Accept")
	var page bytes.Buffer
	if strings.Contains(c.Request().Header.Get("Accept"), "text/html") {
		h.Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'")
		if err := indexPage.Execute(&page, base); err != nil {
			return err
		}
		return c.HTMLBlob(http.StatusOK, page.Bytes())
	}
	if err := indexPlain.Execute(&page, base); err != nil {
		return err
	}
	return c.Blob(http.StatusOK, "text/plain; charset=utf-8", page.Bytes())
}

// openAPI answers with the wire contract.
func (s *Server) openAPI(c echo.Context) error {
	return c.Blob(http.StatusOK, "application/yaml", s.OpenAPI)
}

// live answers while the process can answer at all.
func (s *Server) live(c echo.Context) error {
	return c.Blob(http.StatusOK, "text/plain; charset=utf-8", []byte("ok\n"))
}
