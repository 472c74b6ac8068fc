package tidemark_test

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// imports is who may import what: of this module, and of others. A library is
// named by its module, and only the packages that list it may use it. A package
// that is not here may not exist, but for tools, which stand aside and are free.
var imports = map[string][]string{
	"tidemark":                    {},
	"tidemark/mutlog":             {"github.com/oklog/ulid/v2", "github.com/go-json-experiment/json"},
	"tidemark/mutlog/mutlogtest":  {"tidemark/mutlog"},
	"tidemark/store":              {"tidemark/mutlog", "github.com/oklog/ulid/v2", "go.etcd.io/bbolt", "github.com/jackc/pgx/v5"},
	"tidemark/store/storetest":    {"tidemark/store", "tidemark/store/postgrestest"},
	"tidemark/store/postgrestest": {},
	"tidemark/devices":            {"tidemark/mutlog", "golang.org/x/sync"},
	"tidemark/transfer":           {"tidemark/mutlog", "golang.org/x/sync"},
	"tidemark/openapitest":        {"github.com/go-json-experiment/json", "github.com/klauspost/compress", "github.com/santhosh-tekuri/jsonschema/v6", "go.yaml.in/yaml/v3"},
	"tidemark/export":             {"tidemark/mutlog", "tidemark/transfer"},
	"tidemark/backup":             {"tidemark/mutlog", "tidemark/store"},
	"tidemark/events":             {"tidemark/mutlog", "golang.org/x/sync"},
	"tidemark/webhook":            {"tidemark/mutlog", "github.com/oklog/ulid/v2"},
	"tidemark/server":             {"tidemark", "tidemark/mutlog", "github.com/labstack/echo/v4", "github.com/klauspost/compress", "github.com/oklog/ulid/v2", "golang.org/x/sync", "tidemark/auth", "tidemark/devices", "tidemark/events"},
	"tidemark/client":             {"tidemark/mutlog", "github.com/google/uuid"},
	"tidemark/telemetry":          {"tidemark/backup", "tidemark/mutlog", "tidemark/server", "tidemark/store", "tidemark/webhook", "github.com/prometheus/client_golang", "go.opentelemetry.io/otel", "go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp", "go.opentelemetry.io/otel/sdk", "go.opentelemetry.io/otel/trace"},
	"tidemark/cmd/tidemark":       {"tidemark", "tidemark/telemetry", "tidemark/backup", "tidemark/devices", "tidemark/export", "tidemark/mutlog", "tidemark/store", "tidemark/server", "tidemark/transfer", "tidemark/resources", "tidemark/bench/load", "github.com/alecthomas/kong", "tidemark/admin", "tidemark/auth", "tidemark/webhook"},
	"tidemark/auth":               {"tidemark/mutlog", "github.com/oklog/ulid/v2", "github.com/go-json-experiment/json", "github.com/golang-jwt/jwt/v5", "github.com/MicahParks/jwkset", "github.com/goccy/go-yaml"},
	"tidemark/resources":          {"tidemark/mutlog", "github.com/goccy/go-yaml", "github.com/go-json-experiment/json", "github.com/santhosh-tekuri/jsonschema/v6"},
	"tidemark/admin":              {"tidemark/auth", "tidemark/backup", "tidemark/devices", "tidemark/export", "tidemark/mutlog", "tidemark/store", "tidemark/transfer"},
}

// tools are packages that measure and break the others.
var tools = []string{"tidemark/bench/", "tidemark/faults"}

// The rules of the log know no network, no disk and no clock of their own.
var notInMutlog = []string{"net", "net/http", "os", "os/exec", "io/fs", "database/sql", "log", "log/slog", "syscall"}

// TestImports holds the module to the flow that a newcomer reads from its tree:
// request → server → mutlog ← store, wired in cmd alone.
func TestImports(t *testing.T) {
	list := exec.Command("go", "list", "-deps", "-json=ImportPath,Imports,Standard,Module", "./...")
	out, err := list.Output()
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			t.Fatalf("go list: %v\n%s", err, exit.Stderr)
		}
		t.Fatal(err)
	}
	type Package struct {
		ImportPath string
		Imports    []string
		Standard   bool
		Module     struct{ Path string }
	}
	packages := map[string]Package{}
	for d := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p Package
		if err := d.Decode(&p); err == io.EOF {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		packages[p.ImportPath] = p
	}
	for path, p := range packages {
		isTool := slices.ContainsFunc(tools, func(prefix string) bool { return strings.HasPrefix(path, prefix) })
		if p.Module.Path != "tidemark" || isTool {
			continue
		}
		allowed, known := imports[path]
		if !known {
			t.Errorf("%s: the table of imports does not know it", path)
			continue
		}
		for _, imported := range p.Imports {
			of := packages[imported]
			name := imported
			if of.Module.Path != "tidemark" {
				name = of.Module.Path
			}
			switch {
			case of.Standard && path == "tidemark/mutlog" && slices.Contains(notInMutlog, imported):
				t.Errorf("%s imports %s", path, imported)
			case !of.Standard && !slices.Contains(allowed, name):
				t.Errorf("%s imports %s, and may import %s", path, imported, allowed)
			}
		}
	}
	for path := range imports {
		if _, ok := packages[path]; !ok {
			t.Errorf("%s is in the table of imports, and is gone", path)
		}
	}
}
