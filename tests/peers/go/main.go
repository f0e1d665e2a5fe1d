// Command entente-peer is the program on the other side in Entente's tests: it is written on go-spiffe and
// spire-api-sdk only, so what it accepts is what clients nobody here wrote accept.
//
// Every subcommand answers with one JSON object a line on standard output, each with a member "event". Subcommands
// that keep running read one command a line from standard input and end when it is closed. A failed expectation ends
// the program with exit code 1 and an event "failed".
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
)

// subcommands by name; each lives in the file of the same name.
var subcommands = map[string]func(context.Context, []string) error{
	"workload-watch":    workloadWatch,
	"federation-client": federationClient,
	"federation-server": federationServer,
	"server-api":        serverAPI,
	"agent-api":         agentAPI,
	"mtls-server":       mtlsServer,
	"mtls-client":       mtlsClient,
}

func main() {
	if len(os.Args) < 2 || subcommands[os.Args[1]] == nil {
		names := make([]string, 0, len(subcommands))
		for name := range subcommands {
			names = append(names, name)
		}
		fmt.Fprintf(os.Stderr, "usage: %s SUBCOMMAND [flags]; subcommands: %s\n", os.Args[0], strings.Join(names, ", "))
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	if err := subcommands[os.Args[1]](ctx, os.Args[2:]); err != nil && !errors.Is(err, context.Canceled) {
		emit("failed", object{"error": err.Error()})
		fmt.Fprintln(os.Stderr, "entente-peer:", err)
		os.Exit(1)
	}
}

// object is the body of one event.
type object map[string]any

var emitLock sync.Mutex

// emit writes one event line. Events may come from several goroutines.
func emit(event string, body object) {
	line := object{"event": event}
	for name, value := range body {
		line[name] = value
	}
	encoded, err := json.Marshal(line)
	if err != nil {
		encoded = []byte(fmt.Sprintf(`{"event":"failed","error":%q}`, err.Error()))
	}
	emitLock.Lock()
	defer emitLock.Unlock()
	os.Stdout.Write(append(encoded, '\n'))
}

// commands calls handle for every line of standard input until it is closed or ctx ends.
func commands(ctx context.Context, handle func(words []string) error) error {
	lines := make(chan string)
	go func() {
		defer close(lines)
		scanner := bufio.NewScanner(os.Stdin)
		scanner.Buffer(make([]byte, 0, 64*1024), 1024*1024)
		for scanner.Scan() {
			lines <- scanner.Text()
		}
	}()
	for {
		select {
		case <-ctx.Done():
			return nil
		case line, open := <-lines:
			if !open {
				return nil
			}
			words := strings.Fields(line)
			if len(words) == 0 {
				continue
			}
			if err := handle(words); err != nil {
				return fmt.Errorf("%s: %w", words[0], err)
			}
		}
	}
}
