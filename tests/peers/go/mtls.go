package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
)

// maxAnswer bounds what mtls-client reads of one answer.
const maxAnswer = 64 * 1024

// mtlsServer serves HTTPS with the identity the Workload API gives and answers each caller with its SPIFFE ID.
func mtlsServer(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("mtls-server", flag.ExitOnError)
	socket := flags.String("socket", "", "Workload API address, unix:///path")
	authorize := flags.String("authorize", "", "the one SPIFFE ID let in")
	if err := flags.Parse(args); err != nil {
		return err
	}
	id, err := spiffeid.FromString(*authorize)
	if err != nil {
		return err
	}
	source, err := workloadapi.NewX509Source(ctx, workloadapi.WithClientOptions(workloadapi.WithAddr(*socket)))
	if err != nil {
		return err
	}
	defer source.Close()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	server := &http.Server{
		ReadHeaderTimeout: 10 * time.Second,
		TLSConfig:         tlsconfig.MTLSServerConfig(source, source, tlsconfig.AuthorizeID(id)),
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			fmt.Fprintf(w, "hello %s", r.TLS.PeerCertificates[0].URIs[0])
		}),
	}
	go func() {
		_ = commands(ctx, func([]string) error { return errors.New("unknown command") })
		_ = server.Close()
	}()
	emit("listening", object{"address": listener.Addr().String()})
	if err := server.ServeTLS(listener, "", ""); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// mtlsClient makes one HTTPS request with the identity the Workload API gives.
func mtlsClient(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("mtls-client", flag.ExitOnError)
	socket := flags.String("socket", "", "Workload API address, unix:///path")
	authorize := flags.String("authorize", "", "SPIFFE ID the server must have")
	url := flags.String("url", "", "https://host:port/path")
	if err := flags.Parse(args); err != nil {
		return err
	}
	id, err := spiffeid.FromString(*authorize)
	if err != nil {
		return err
	}
	source, err := workloadapi.NewX509Source(ctx, workloadapi.WithClientOptions(workloadapi.WithAddr(*socket)))
	if err != nil {
		return err
	}
	defer source.Close()
	client := &http.Client{
		Timeout:   30 * time.Second,
		Transport: &http.Transport{TLSClientConfig: tlsconfig.MTLSClientConfig(source, source, tlsconfig.AuthorizeID(id))},
	}
	answer, err := client.Get(*url)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(io.LimitReader(answer.Body, maxAnswer))
	if err != nil {
		return err
	}
	emit("answer", object{"status": answer.StatusCode, "body": string(body)})
	return nil
}
