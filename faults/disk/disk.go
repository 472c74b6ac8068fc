// Package disk is a disk for tests that fails as real ones do: a file system,
// mounted with FUSE, that keeps what was written apart from what was synced.
//
// A power cut leaves of all that was not synced a random part, in sectors of 512
// bytes. Names behave like that, too: a file that was created, linked, renamed
// or removed is so for certain only after a sync of the directory. Hooks see each
// operation before it is done and can refuse, lose or delay it.
//
// There is one directory, and those in it have no others. The files are in memory.
package disk

import (
	"context"
	"errors"
	"maps"
	"math/rand/v2"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
)

// Sector is the number of bytes that a disk writes whole or not at all.
const Sector = 512

// Kind is what an operation does.
type Kind int

// The operations that change a disk.
const (
	Write Kind = iota
	Truncate
	Sync // of a file
	SyncDir
	Create
	Link
	Rename
	Unlink
)

// Names reports whether k changes a name in the directory.
func (k Kind) Names() bool { return k >= Create }

// Op is one operation on the file of a name.
type Op struct {
	Kind Kind
	File string // the name it was opened with, or that is made or removed
	Off  int64  // of a Write; the new size of a Truncate
	Data []byte // of a Write
}

// ErrLost, returned by a hook, loses the operation and tells that it was done.
var ErrLost = errors.New("lost by the disk")

// Disk is a mounted file system.
type Disk struct {
	Dir string // where it is mounted

	server *fuse.Server

	mu        sync.Mutex
	hook      func(Op) error
	syncDelay time.Duration
	dead      bool             // the power is cut
	names     map[string]*file // as processes see them
	synced    map[string]*file // as a power cut leaves them for certain
	changes   []change         // of names since the directory was synced
	dirs      map[string]bool  // beside Dir; they are there at once, and stay as long as files are in them
	nextIno   uint64
}

// change is a change of a name; a nil file removes it.
type change struct {
	name string
	file *file
}

// New mounts an empty disk at dir, an empty directory.
func New(dir string) (*Disk, error) {
	d := &Disk{Dir: dir, names: map[string]*file{}, synced: map[string]*file{}, dirs: map[string]bool{}, nextIno: 2}
	var err error
	d.server, err = fs.Mount(dir, &root{disk: d}, &fs.Options{
		MountOptions: fuse.MountOptions{DirectMountStrict: true, Name: "lossy", FsName: "lossy"},
	})
	if err != nil {
		return nil, err
	}
	return d, nil
}

// Close unmounts the disk, even if files of it are open.
func (d *Disk) Close() error {
	err := d.server.Unmount()
	if err != nil {
		err = syscall.Unmount(d.Dir, syscall.MNT_DETACH)
	}
	return err
}

// SetHook makes hook see each operation before it is done: an error is returned
// to the caller in its place, unless it is ErrLost. hook must not use the disk.
func (d *Disk) SetHook(hook func(Op) error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.hook = hook
}

// SetSyncDelay makes every sync of a file take that long.
func (d *Disk) SetSyncDelay(delay time.Duration) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.syncDelay = delay
}

// Powered runs fn, unless the power is cut, and tells whether it did. No cut
// comes in between: what fn records was so before it.
func (d *Disk) Powered(fn func()) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.dead {
		return false
	}
	fn()
	return true
}

// Cut cuts the power and returns the files that are left. Every operation fails
// until Reset.
func (d *Disk) Cut(rnd *rand.Rand) map[string][]byte {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.dead = true
	names := maps.Clone(d.synced)
	for _, c := range d.changes[:rnd.IntN(len(d.changes)+1)] { // a journal keeps their order
		if names[c.name] = c.file; c.file == nil {
			delete(names, c.name)
		}
	}
	// Each cut keeps another share of what was not synced, often none or all.
	keep := min(max(rnd.Float64()*1.5-0.25, 0), 1)
	images := map[string][]byte{}
	for name, f := range names {
		images[name] = f.survivor(rnd, keep)
	}
	return images
}

// Files returns the files as processes see them.
func (d *Disk) Files() map[string][]byte {
	d.mu.Lock()
	defer d.mu.Unlock()
	images := map[string][]byte{}
	for name, f := range d.names {
		images[name] = append([]byte(nil), f.data...)
	}
	return images
}

// Reset turns the power on with these files. No process may have one open.
func (d *Disk) Reset(images map[string][]byte) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.dead, d.hook, d.syncDelay, d.changes = false, nil, 0, nil
	d.names, d.synced, d.dirs = map[string]*file{}, map[string]*file{}, map[string]bool{}
	for name, data := range images {
		if dir, _, inDir := strings.Cut(name, "/"); inDir {
			d.dirs[dir] = true
		}
		f := d.newFile(name)
		f.data = append([]byte(nil), data...)
		f.synced = append([]byte(nil), data...)
		d.names[name], d.synced[name] = f, f
	}
}

func (d *Disk) newFile(name string) *file {
	d.nextIno++
	return &file{disk: d, name: name, ino: d.nextIno}
}

// do does an operation as the hook wants it.
func (d *Disk) do(op Op, fn func() syscall.Errno) syscall.Errno {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.dead {
		return syscall.EIO
	}
	if d.hook != nil {
		err := d.hook(op)
		var errno syscall.Errno
		switch {
		case err == ErrLost:
			return 0
		case errors.As(err, &errno):
			return errno
		case err != nil:
			return syscall.EIO
		}
	}
	return fn()
}

// file is a file; it is a node of FUSE, too.
type file struct {
	fs.Inode
	disk *Disk
	name string // it was created with
	ino  uint64

	data     []byte // as processes see it
	synced   []byte // as a power cut leaves it for certain
	unsynced []Op   // what lies between
}

var (
	_ fs.NodeOpener    = (*file)(nil)
	_ fs.NodeGetattrer = (*file)(nil)
	_ fs.NodeSetattrer = (*file)(nil)
	_ fs.NodeReader    = (*file)(nil)
	_ fs.NodeWriter    = (*file)(nil)
	_ fs.NodeFsyncer   = (*file)(nil)
)

// survivor returns what a power cut leaves of f.
func (f *file) survivor(rnd *rand.Rand, keep float64) []byte {
	image := append([]byte(nil), f.synced...)
	for _, op := range f.unsynced {
		if op.Kind == Truncate {
			if rnd.Float64() < keep {
				image = resize(image, op.Off)
			}
			continue
		}
		for _, part := range op.Sectors() {
			if rnd.Float64() < keep {
				image = part.Apply(image)
			}
		}
	}
	return image
}

// Sectors splits a Write at the borders of sectors.
func (op Op) Sectors() (parts []Op) {
	for off, data := op.Off, op.Data; len(data) > 0; {
		n := min(int64(len(data)), Sector-off%Sector)
		parts = append(parts, Op{Kind: Write, File: op.File, Off: off, Data: data[:n]})
		off, data = off+n, data[n:]
	}
	return parts
}

// Apply does a Write or Truncate to image and returns it.
func (op Op) Apply(image []byte) []byte {
	switch op.Kind {
	case Truncate:
		return resize(image, op.Off)
	case Write:
		image = resize(image, max(int64(len(image)), op.Off+int64(len(op.Data))))
		copy(image[op.Off:], op.Data)
	}
	return image
}

func resize(b []byte, size int64) []byte {
	if size <= int64(len(b)) {
		return b[:size:size]
	}
	return append(b, make([]byte, size-int64(len(b)))...)
}

func (f *file) change(op Op) {
	f.data = op.Apply(f.data)
	f.unsynced = append(f.unsynced, op)
}

// Open implements fs.NodeOpener.
func (f *file) Open(context.Context, uint32) (fs.FileHandle, uint32, syscall.Errno) {
	return nil, fuse.FOPEN_KEEP_CACHE, 0
}

func (f *file) attr(out *fuse.Attr) {
	out.Mode, out.Nlink, out.Ino, out.Size = syscall.S_IFREG|0o600, 1, f.ino, uint64(len(f.data))
	out.Blksize, out.Blocks = 4096, (out.Size+511)/512
}

// Getattr implements fs.NodeGetattrer.
func (f *file) Getattr(_ context.Context, _ fs.FileHandle, out *fuse.AttrOut) syscall.Errno {
	f.disk.mu.Lock()
	defer f.disk.mu.Unlock()
	f.attr(&out.Attr)
	return 0
}

// Setattr implements fs.NodeSetattrer; only the size can be set.
func (f *file) Setattr(_ context.Context, _ fs.FileHandle, in *fuse.SetAttrIn, out *fuse.AttrOut) (errno syscall.Errno) {
	if size, ok := in.GetSize(); ok {
		op := Op{Kind: Truncate, File: f.name, Off: int64(size)}
		errno = f.disk.do(op, func() syscall.Errno { f.change(op); return 0 })
	}
	f.disk.mu.Lock()
	defer f.disk.mu.Unlock()
	f.attr(&out.Attr)
	return errno
}

// Read implements fs.NodeReader.
func (f *file) Read(_ context.Context, _ fs.FileHandle, dest []byte, off int64) (fuse.ReadResult, syscall.Errno) {
	f.disk.mu.Lock()
	defer f.disk.mu.Unlock()
	if off >= int64(len(f.data)) {
		return fuse.ReadResultData(nil), 0
	}
	return fuse.ReadResultData(dest[:copy(dest, f.data[off:])]), 0
}

// Write implements fs.NodeWriter.
func (f *file) Write(_ context.Context, _ fs.FileHandle, data []byte, off int64) (uint32, syscall.Errno) {
	op := Op{Kind: Write, File: f.name, Off: off, Data: append([]byte(nil), data...)}
	errno := f.disk.do(op, func() syscall.Errno { f.change(op); return 0 })
	return uint32(len(data)), errno
}

// Fsync implements fs.NodeFsyncer, for fdatasync as well.
func (f *file) Fsync(context.Context, fs.FileHandle, uint32) syscall.Errno {
	f.disk.mu.Lock()
	delay := f.disk.syncDelay
	f.disk.mu.Unlock()
	time.Sleep(delay)
	return f.disk.do(Op{Kind: Sync, File: f.name}, func() syscall.Errno {
		for _, op := range f.unsynced {
			f.synced = op.Apply(f.synced)
		}
		f.unsynced = nil
		return 0
	})
}

// root is the directory, or one in it, whose files have names like "dir/file".
type root struct {
	fs.Inode
	disk   *Disk
	prefix string // of the names in it: "" or "dir/"
}

var (
	_ fs.NodeLookuper  = (*root)(nil)
	_ fs.NodeReaddirer = (*root)(nil)
	_ fs.NodeCreater   = (*root)(nil)
	_ fs.NodeLinker    = (*root)(nil)
	_ fs.NodeRenamer   = (*root)(nil)
	_ fs.NodeUnlinker  = (*root)(nil)
	_ fs.NodeFsyncer   = (*root)(nil)
	_ fs.NodeMkdirer   = (*root)(nil)
	_ fs.NodeRmdirer   = (*root)(nil)
)

func (r *root) node(ctx context.Context, f *file) *fs.Inode {
	return r.NewInode(ctx, f, fs.StableAttr{Mode: syscall.S_IFREG, Ino: f.ino})
}

// Lookup implements fs.NodeLookuper.
func (r *root) Lookup(ctx context.Context, name string, out *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	r.disk.mu.Lock()
	defer r.disk.mu.Unlock()
	if r.disk.dirs[r.prefix+name] {
		return r.dir(ctx, name), 0
	}
	f := r.disk.names[r.prefix+name]
	if f == nil {
		return nil, syscall.ENOENT
	}
	f.attr(&out.Attr)
	return r.node(ctx, f), 0
}

// dir returns the node of a directory in r.
func (r *root) dir(ctx context.Context, name string) *fs.Inode {
	return r.NewInode(ctx, &root{disk: r.disk, prefix: r.prefix + name + "/"}, fs.StableAttr{Mode: syscall.S_IFDIR})
}

// Mkdir implements fs.NodeMkdirer.
func (r *root) Mkdir(ctx context.Context, name string, _ uint32, _ *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	r.disk.mu.Lock()
	defer r.disk.mu.Unlock()
	switch {
	case r.disk.dead:
		return nil, syscall.EIO
	case r.prefix != "":
		return nil, syscall.ENOTSUP
	case r.disk.dirs[name] || r.disk.names[name] != nil:
		return nil, syscall.EEXIST
	}
	r.disk.dirs[name] = true
	return r.dir(ctx, name), 0
}

// Rmdir implements fs.NodeRmdirer.
func (r *root) Rmdir(_ context.Context, name string) syscall.Errno {
	r.disk.mu.Lock()
	defer r.disk.mu.Unlock()
	if r.disk.dead {
		return syscall.EIO
	}
	for file := range r.disk.names {
		if strings.HasPrefix(file, r.prefix+name+"/") {
			return syscall.ENOTEMPTY
		}
	}
	delete(r.disk.dirs, r.prefix+name)
	return 0
}

// Readdir implements fs.NodeReaddirer.
func (r *root) Readdir(context.Context) (fs.DirStream, syscall.Errno) {
	r.disk.mu.Lock()
	defer r.disk.mu.Unlock()
	var entries []fuse.DirEntry
	for name, f := range r.disk.names {
		if name, inside := strings.CutPrefix(name, r.prefix); inside && !strings.Contains(name, "/") {
			entries = append(entries, fuse.DirEntry{Name: name, Ino: f.ino, Mode: syscall.S_IFREG})
		}
	}
	for name := range r.disk.dirs {
		if r.prefix == "" {
			entries = append(entries, fuse.DirEntry{Name: name, Mode: syscall.S_IFDIR})
		}
	}
	return fs.NewListDirStream(entries), 0
}

// set changes what a name stands for.
func (d *Disk) set(name string, f *file) {
	if d.names[name] = f; f == nil {
		delete(d.names, name)
	}
	d.changes = append(d.changes, change{name, f})
}

// Create implements fs.NodeCreater.
func (r *root) Create(ctx context.Context, name string, _, _ uint32, out *fuse.EntryOut) (node *fs.Inode, _ fs.FileHandle, flags uint32, errno syscall.Errno) {
	name = r.prefix + name
	errno = r.disk.do(Op{Kind: Create, File: name}, func() syscall.Errno {
		f := r.disk.newFile(name)
		r.disk.set(name, f)
		f.attr(&out.Attr)
		node = r.node(ctx, f)
		return 0
	})
	return node, nil, fuse.FOPEN_KEEP_CACHE, errno
}

// Link implements fs.NodeLinker.
func (r *root) Link(ctx context.Context, target fs.InodeEmbedder, name string, out *fuse.EntryOut) (node *fs.Inode, errno syscall.Errno) {
	name = r.prefix + name
	errno = r.disk.do(Op{Kind: Link, File: name}, func() syscall.Errno {
		f := target.(*file)
		if r.disk.names[name] != nil {
			return syscall.EEXIST
		}
		r.disk.set(name, f)
		f.attr(&out.Attr)
		node = r.node(ctx, f)
		return 0
	})
	return node, errno
}

// Rename implements fs.NodeRenamer.
func (r *root) Rename(_ context.Context, name string, parent fs.InodeEmbedder, to string, _ uint32) syscall.Errno {
	name, to = r.prefix+name, parent.(*root).prefix+to
	return r.disk.do(Op{Kind: Rename, File: to}, func() syscall.Errno {
		f := r.disk.names[name]
		if f == nil {
			return syscall.ENOENT
		}
		r.disk.set(to, f)
		r.disk.set(name, nil)
		return 0
	})
}

// Unlink implements fs.NodeUnlinker.
func (r *root) Unlink(_ context.Context, name string) syscall.Errno {
	name = r.prefix + name
	return r.disk.do(Op{Kind: Unlink, File: name}, func() syscall.Errno {
		if r.disk.names[name] == nil {
			return syscall.ENOENT
		}
		r.disk.set(name, nil)
		return 0
	})
}

// Fsync implements fs.NodeFsyncer.
func (r *root) Fsync(context.Context, fs.FileHandle, uint32) syscall.Errno {
	return r.disk.do(Op{Kind: SyncDir}, func() syscall.Errno {
		r.disk.synced, r.disk.changes = maps.Clone(r.disk.names), nil
		return 0
	})
}
