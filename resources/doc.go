// Package resources reads resource files: which kinds of resources a server
// allows, and what holds for each. docs/resources.md describes the files.
//
// Package mutlog judges pushes by what is read here and knows neither YAML nor
// JSON Schema; this package knows nothing of logs.
package resources
