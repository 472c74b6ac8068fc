package main

import (
	"context"
	"fmt"
	"time"

	"tidemark/admin"
	"tidemark/mutlog"
)

// Run records that the store was restored.
func (c *fenceCommand) Run(io streams) error {
	var at mutlog.Timestamp
	if c.At != "" {
		t, err := time.Parse(time.RFC3339, c.At)
		if err != nil {
			return usageError("--at must be a time such as 2027-01-31T18:00:00Z")
		}
		at = mutlog.Timestamp(t.UnixMilli())
	}
	return c.administer(false, func(ctx context.Context, a *admin.Client) error {
		at, err := a.Fence(ctx, at)
		if err == nil {
			fmt.Fprintf(io.out, "every log has a gap from its newest mutation to %s\n", time.UnixMilli(int64(at)).UTC().Format(time.RFC3339))
		}
		return err
	})
}
