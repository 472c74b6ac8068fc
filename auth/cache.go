package auth

import (
	"container/list"
	"crypto/sha256"
	"sync"
)

// cacheSize is how many JWTs are remembered: about 10 MiB. To verify a signature
// takes longer than all the rest of a poll.
const cacheSize = 16 << 10

// cache remembers the tokens that were verified last, by their hashes, so that it
// holds no tokens.
type cache struct {
	size int

	mu     sync.Mutex
	tokens map[[sha256.Size]byte]*list.Element
	recent list.List // of *cached, the one that was used last in front
}

type cached struct {
	hash [sha256.Size]byte
	verified
}

// verified is a token that counts as long as it has not expired and the key set
// of its issuer is of that version.
type verified struct {
	issuer    *trusted
	version   int
	principal *Principal
}

func newCache(size int) *cache {
	return &cache{size: size, tokens: map[[sha256.Size]byte]*list.Element{}}
}

func (c *cache) get(hash [sha256.Size]byte) (v verified, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e, ok := c.tokens[hash]
	if !ok {
		return v, false
	}
	c.recent.MoveToFront(e)
	return e.Value.(*cached).verified, true
}

func (c *cache) put(hash [sha256.Size]byte, v verified) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e, ok := c.tokens[hash]; ok {
		e.Value.(*cached).verified = v
		c.recent.MoveToFront(e)
		return
	}
	if len(c.tokens) >= c.size {
		oldest := c.recent.Back()
		delete(c.tokens, c.recent.Remove(oldest).(*cached).hash)
	}
	c.tokens[hash] = c.recent.PushFront(&cached{hash, v})
}
