// Package tidemark is the root of the module. It holds the wire contract, so
// that the server can serve the very file that clients are built from.
package tidemark

import _ "embed"

// OpenAPI is openapi.yaml.
//
//go:embed openapi.yaml
var OpenAPI []byte
