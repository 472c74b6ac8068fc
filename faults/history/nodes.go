package history

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// kind is a kind of store that servers can be judged on.
type kind interface {
	// create returns the name of a new store.
	create() (store string, err error)

	// content returns all that is in a store; no refusal may change it.
	content(store string) ([]byte, error)

	// check runs tidemark check on the store of servers that are idle.
	check(binary, store string) error

	// remove removes a store that nobody serves.
	remove(store string)
}

// files are stores in directories under dir.
type files struct{ dir string }

func (f files) create() (string, error) {
	dir, err := os.MkdirTemp(f.dir, "store-")
	return filepath.Join(dir, "tidemark.db"), err
}

func (f files) content(store string) ([]byte, error) { return os.ReadFile(store) }

// check checks a copy, because a server holds the store.
func (f files) check(binary, store string) error {
	copied := store + ".copy"
	defer os.Remove(copied)
	content, err := os.ReadFile(store)
	if err == nil {
		err = os.WriteFile(copied, content, 0o600)
	}
	if err != nil {
		return err
	}
	return check(binary, copied)
}

func (f files) remove(store string) { os.RemoveAll(filepath.Dir(store)) }

// check runs tidemark check.
func check(binary, store string) error {
	if out, err := exec.Command(binary, "check", "--store", store).CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return nil
}

// node is a server, and the proxy through which devices reach it.
type node struct {
	proxy  *proxy
	server *process
}

// start starts the server of a node on a store.
func (n *node) start(binary, store string) error {
	server, err := startProcess(binary, store)
	if err != nil {
		return err
	}
	n.server = server
	n.proxy.backend.Store(server.addr)
	return nil
}

// lost returns how many answers and requests of pushes have been lost.
func (b *bench) lost() (answers, requests int) {
	for _, n := range b.nodes {
		answers += int(n.proxy.lostAnswers.Load())
		requests += int(n.proxy.lostRequests.Load())
	}
	return answers, requests
}

// lose sets what is lost from now on.
func (b *bench) lose(seed uint64, l loss) {
	for i, n := range b.nodes {
		n.proxy.begin(seed+uint64(i), l)
	}
}

// quiet waits until no server has anything to do.
func (b *bench) quiet() bool {
	for _, n := range b.nodes {
		if !n.proxy.quiet(answerTimeout) {
			return false
		}
	}
	return true
}

// sameContent tells whether a store still has the content before.
func (b *bench) sameContent(before []byte) (bool, error) {
	after, err := b.kind.content(b.store)
	return bytes.Equal(before, after), err
}

// node is the server that d speaks to, or the i-th next to it.
func (d *device) node(i int) *node { return d.run.bench.nodes[(d.number+i)%len(d.run.bench.nodes)] }
