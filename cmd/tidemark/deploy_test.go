package main_test

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"tidemark/server"
)

const deployPath = "../../deploy"

// composition is what matters here of a compose file.
type composition struct {
	Services map[string]struct {
		Build       string
		Image       string
		Command     []string
		Environment map[string]string
		DependsOn   map[string]struct{ Condition string } `yaml:"depends_on"`
		Healthcheck struct{ Test []string }
		Networks    []string
		Ports       []string
		Restart     string
		StopGrace   string `yaml:"stop_grace_period"`
		Volumes     []string
	}
	Networks map[string]struct {
		Ipam struct{ Config []struct{ Subnet string } }
	}
	Volumes map[string]any
}

// TestCompose holds deploy/compose.yaml to what a composition must have to come up, to stay up and to be replaced
// piece by piece, since no container engine tries it here.
func TestCompose(t *testing.T) {
	var c composition
	if err := yaml.Unmarshal([]byte(readFile(t, deployPath+"/compose.yaml")), &c); err != nil {
		t.Fatal(err)
	}
	help, err := command(t, t.TempDir(), "serve", "--help").CombinedOutput()
	if err != nil {
		t.Fatal(err)
	}
	servers := []string{}
	for name, s := range c.Services {
		fail := func(format string, args ...any) {
			t.Helper()
			t.Errorf("service "+name+": "+format, args...)
		}
		if tag := regexp.MustCompile(`:\d+[\w.-]*$`); s.Build == "" && !tag.MatchString(s.Image) {
			fail("the image %q has no version", s.Image)
		}
		if len(s.Healthcheck.Test) < 2 || s.Healthcheck.Test[0] != "CMD" {
			fail("it has no health check that needs no shell: %q", s.Healthcheck.Test)
		}
		if s.Restart != "unless-stopped" || s.StopGrace == "" {
			fail("it is not started again, or is killed before it can end: %q %q", s.Restart, s.StopGrace)
		}
		for other, on := range s.DependsOn {
			if len(c.Services[other].Healthcheck.Test) == 0 || on.Condition != "service_healthy" {
				fail("it does not wait until %s is healthy", other)
			}
		}
		for _, network := range s.Networks {
			if _, ok := c.Networks[network]; !ok {
				fail("there is no network %s", network)
			}
		}
		for _, volume := range s.Volumes {
			source, _, _ := strings.Cut(volume, ":")
			if _, declared := c.Volumes[source]; declared {
				continue
			}
			if _, err := os.Stat(filepath.Join(deployPath, source)); err != nil {
				fail("volume %s: %v", volume, err)
			}
		}
		for _, port := range s.Ports {
			if name != "balancer" || !strings.HasPrefix(port, "127.0.0.1:") {
				fail("it publishes %s", port)
			}
		}
		for variable := range s.Environment {
			if strings.HasPrefix(variable, "TIDEMARK_") && !strings.Contains(string(help), "($"+variable+")") {
				fail("serve has no flag for %s", variable)
			}
		}
		if s.Build != "" {
			servers = append(servers, name)
			if _, err := os.Stat(filepath.Join(deployPath, s.Build, "Dockerfile")); err != nil {
				fail("%v", err)
			}
		}
	}
	if len(servers) < 2 {
		t.Errorf("the servers are %q, want two", servers)
	}
	database := c.Services["postgres"]
	if !slices.Contains(database.Healthcheck.Test, "--host=127.0.0.1") {
		t.Errorf("PostgreSQL seems to be well while it is only being set up: %q", database.Healthcheck.Test)
	}
	for _, name := range servers {
		if subnets := c.Networks["back"].Ipam.Config; len(subnets) != 1 || c.Services[name].Environment["TIDEMARK_TRUSTED_PROXIES"] != subnets[0].Subnet {
			t.Errorf("%s does not believe the load balancer on %v whose request it is", name, subnets)
		}
		if url := c.Services[name].Environment["TIDEMARK_STORE"]; !strings.HasPrefix(url, "postgres://"+database.Environment["POSTGRES_USER"]+"@postgres:5432/"+database.Environment["POSTGRES_DB"]+"?") {
			t.Errorf("%s has the store %s", name, url)
		}
	}
	for _, setting := range database.Command {
		if strings.HasPrefix(setting, "fsync=") || strings.HasPrefix(setting, "synchronous_commit=") || strings.HasPrefix(setting, "full_page_writes=") {
			t.Errorf("PostgreSQL is told %s: what is acknowledged might not be on disk", setting)
		}
	}
	testBalancer(t, servers)
}

// testBalancer holds the configuration of the load balancer against the servers.
func testBalancer(t *testing.T, servers []string) {
	config := readFile(t, deployPath+"/haproxy.cfg")
	var balanced []string
	for _, m := range regexp.MustCompile(`(?m)^ +server (\S+) (\S+)$`).FindAllStringSubmatch(config, -1) {
		if m[2] != m[1]+":8080" {
			t.Errorf("the load balancer sends the requests for %s to %s", m[1], m[2])
		}
		balanced = append(balanced, m[1])
	}
	slices.Sort(servers)
	slices.Sort(balanced)
	if !slices.Equal(servers, balanced) {
		t.Errorf("the load balancer has %q, the servers are %q", balanced, servers)
	}
	for _, m := range regexp.MustCompile(`\buri (/\S*)`).FindAllStringSubmatch(config, -1) {
		if !slices.Contains(server.New(server.Options{}).Routes(), "GET "+m[1]) {
			t.Errorf("the load balancer asks for %s, which the server does not have", m[1])
		}
	}
	if !strings.Contains(config, "http-request set-header X-Forwarded-For %[src]") {
		t.Error("the load balancer does not tell whose request it is")
	}
	if !strings.Contains(config, "http-check expect status 200") || strings.Contains(config, "retry-on all-retryable-errors") {
		t.Error("the load balancer does not check the servers, or sends again what one of them may have applied")
	}
}

// TestImageKnowsAuthorities: nothing is in the image but what the Dockerfile puts there, and without the certificates of
// authorities no identity provider or webhook can be reached over HTTPS.
func TestImageKnowsAuthorities(t *testing.T) {
	_, image, found := strings.Cut(readFile(t, "../../Dockerfile"), "\nFROM scratch\n")
	if !found || !strings.Contains(image, "COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/\n") {
		t.Error("the image has no certificates of authorities")
	}
}
