package main

import (
	"context"
	"log/slog"
	"os"
	"sync"
	"time"

	"tidemark/mutlog"
	"tidemark/telemetry"
	"tidemark/webhook"
)

// webhookFlags say who is told of pushes.
type webhookFlags struct {
	WebhookURL        string `name:"webhook-url" help:"URL that is told of each push, https or on the loopback interface, so that it can wake phones; see docs/webhooks.md." placeholder:"URL"`
	WebhookSecretFile string `help:"File with the secret that the requests to it are signed with." placeholder:"FILE"`
}

// webhookDrain is how long what waits to be told may take when the server stops.
const webhookDrain = 2 * time.Second

// webhook returns who is to be told of pushes, or nil.
func (f *webhookFlags) webhook(logger *slog.Logger, figures *telemetry.Metrics, work *background) (pushed func(mutlog.User, mutlog.Timestamp), err error) {
	if f.WebhookURL == "" {
		if f.WebhookSecretFile != "" {
			return nil, usageError("--webhook-secret-file has no meaning without --webhook-url")
		}
		return nil, nil
	}
	if f.WebhookSecretFile == "" {
		return nil, usageError("--webhook-url needs --webhook-secret-file")
	}
	text, err := os.ReadFile(f.WebhookSecretFile)
	if err != nil {
		return nil, usageError("--webhook-secret-file: %w", err)
	}
	secret, err := webhook.ParseSecret(string(text))
	if err != nil {
		return nil, usageError("--webhook-secret-file: %w", err)
	}
	hook, err := webhook.New(f.WebhookURL, secret, logger)
	if err != nil {
		return nil, usageError("--webhook-url: %w", err)
	}
	figures.WatchWebhook(hook)
	ctx, cancel := context.WithCancel(context.Background())
	drained, giveUp := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { hook.Run(ctx, drained) })
	work.until(func() {
		late := time.AfterFunc(webhookDrain, giveUp)
		defer late.Stop()
		cancel()
		running.Wait()
		giveUp()
	})
	return hook.Pushed, nil
}
