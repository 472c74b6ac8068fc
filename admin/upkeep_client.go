package admin

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"

	"tidemark/backup"
	"tidemark/export"
	"tidemark/mutlog"
)

// Backup makes a backup of the store to a new file on the machine of the server.
func (c *Client) Backup(ctx context.Context, wanted NewBackup, tell Progress) (*backup.Manifest, error) {
	made := new(backup.Manifest)
	return made, c.work(ctx, http.MethodPost, "/v1/backup", wanted, tell, made)
}

// Fence gives every log a gap from its head to a time, in Unix milliseconds; 0
// means now. It returns the time.
func (c *Client) Fence(ctx context.Context, at mutlog.Timestamp) (mutlog.Timestamp, error) {
	fence := Fence{at}
	err := c.do(ctx, http.MethodPost, "/v1/fence", fence, &fence)
	return fence.At, err
}

// User returns what is known of a user, also of one who has no log.
func (c *Client) User(ctx context.Context, user mutlog.User) (*UserInfo, error) {
	info := new(UserInfo)
	return info, c.do(ctx, http.MethodGet, userPath("/v1/user", user), nil, info)
}

// Export writes the log of a user to w, as package export has it, and tells how
// many of its batches it has written.
func (c *Client) Export(ctx context.Context, user mutlog.User, w io.Writer, tell Progress) error {
	res, err := c.request(ctx, http.MethodGet, userPath("/v1/user/export", user), nil)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	total, _ := strconv.ParseInt(res.Header.Get(batchesHeader), 10, 64) // or nobody knows
	_, err = io.Copy(io.MultiWriter(w, &lineCounter{total: total, tell: tell}), res.Body)
	return err
}

// lineCounter counts the lines of an export between the first and the last, which
// are its batches.
type lineCounter struct {
	lines, total int64
	tell         Progress
}

func (c *lineCounter) Write(p []byte) (int, error) {
	c.lines += int64(bytes.Count(p, []byte("\n")))
	batches := max(c.lines-1, 0)
	c.tell("exporting", min(batches, cmp.Or(c.total, batches)), c.total)
	return len(p), nil
}

// Import reads an export into the log of a user, or of the one whose it was if
// user is "".
func (c *Client) Import(ctx context.Context, user mutlog.User, r io.Reader) (*export.Summary, error) {
	res, err := c.request(ctx, http.MethodPost, userPath("/v1/user/import", user), r)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	sum := new(export.Summary)
	return sum, json.NewDecoder(res.Body).Decode(sum)
}

// Erase removes all that the store has of a user but a gap under a hash of the
// name. Interrupted, it goes on where it was when it is called again.
func (c *Client) Erase(ctx context.Context, user mutlog.User, tell Progress) (*Erased, error) {
	erased := new(Erased)
	return erased, c.work(ctx, http.MethodDelete, userPath("/v1/user", user), nil, tell, erased)
}

func userPath(path string, user mutlog.User) string {
	if user == "" {
		return path
	}
	return path + "?" + url.Values{"user": {string(user)}}.Encode()
}

// work makes a request that takes long, tells how far it comes, and decodes its
// result.
func (c *Client) work(ctx context.Context, method, path string, in any, tell Progress, result any) error {
	body, err := json.Marshal(in)
	if err != nil {
		return err
	}
	res, err := c.request(ctx, method, path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	defer res.Body.Close()
	for lines := json.NewDecoder(res.Body); ; {
		var line Line
		if err := lines.Decode(&line); err != nil {
			return errors.Join(ctx.Err(), fmt.Errorf("the server that has the store has ended: %w", err))
		}
		switch {
		case line.Error != nil:
			return line.Error
		case line.Result != nil:
			return json.Unmarshal(line.Result, result)
		case tell != nil:
			tell(line.Step, line.Done, line.Total)
		}
	}
}
