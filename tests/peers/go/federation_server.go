package main

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/spiffe/go-spiffe/v2/federation"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"
)

// federationServer is a whole trust domain of its own: an authority in memory and its bundle endpoint, served by
// go-spiffe's federation handler.
//
// Commands: `prepare` adds a new X.509 and JWT authority; `activate` signs with them from then on; `drop-old` removes
// all others; `bundle` reports the bundle; `mint PATH DIR` writes svid.pem, key.pem and bundle.pem for the domain's PATH;
// `jwt PATH AUDIENCE` mints a JWT-SVID; `sequence N` sets the bundle's sequence number, also backwards.
func federationServer(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("federation-server", flag.ExitOnError)
	trustDomain := flags.String("trust-domain", "", "trust domain served")
	listen := flags.String("listen", "127.0.0.1:0", "address")
	profile := flags.String("profile", "", "https_web or https_spiffe")
	certFile := flags.String("cert", "", "https_web: serving certificate, PEM")
	keyFile := flags.String("key", "", "https_web: its key, PEM")
	endpointPath := flags.String("endpoint-path", "/bundle-endpoint", "https_spiffe: path of the endpoint's SPIFFE ID")
	hint := flags.Duration("refresh-hint", time.Minute, "refresh hint served")
	if err := flags.Parse(args); err != nil {
		return err
	}
	td, err := spiffeid.TrustDomainFromString(*trustDomain)
	if err != nil {
		return err
	}
	domain, err := newAuthority(td, *hint)
	if err != nil {
		return err
	}
	endpointID, err := spiffeid.FromPath(td, *endpointPath)
	if err != nil {
		return err
	}
	var config *tls.Config
	switch *profile {
	case "https_web":
		pair, err := tls.LoadX509KeyPair(*certFile, *keyFile)
		if err != nil {
			return err
		}
		config = &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}
	case "https_spiffe":
		config = tlsconfig.TLSServerConfig(authorityEndpoint{domain, endpointID})
	default:
		return fmt.Errorf("unknown profile %q", *profile)
	}
	handler, err := federation.NewHandler(td, domain)
	if err != nil {
		return err
	}
	requests := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		emit("request", object{"method": r.Method, "path": r.URL.Path, "proto": r.Proto, "tls": tls.VersionName(r.TLS.Version)})
		handler.ServeHTTP(w, r)
	})
	listener, err := net.Listen("tcp", *listen)
	if err != nil {
		return err
	}
	server := &http.Server{Handler: requests, TLSConfig: config, ReadHeaderTimeout: 10 * time.Second}
	served := make(chan error, 1)
	go func() { served <- server.ServeTLS(listener, "", "") }()
	body, err := domain.describe()
	if err != nil {
		return err
	}
	body["address"] = listener.Addr().String()
	body["endpoint_id"] = endpointID.String()
	emit("listening", body)

	done := make(chan error, 1)
	go func() { done <- commands(ctx, func(words []string) error { return serverCommand(domain, td, words) }) }()
	select {
	case err = <-done:
	case err = <-served:
	}
	_ = server.Close()
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

func serverCommand(domain *authority, td spiffeid.TrustDomain, words []string) error {
	switch {
	case words[0] == "prepare" && len(words) == 1:
		if err := domain.prepare(); err != nil {
			return err
		}
	case words[0] == "activate" && len(words) == 1:
		domain.activate()
	case words[0] == "drop-old" && len(words) == 1:
		domain.dropOld()
	case words[0] == "sequence" && len(words) == 2:
		var number uint64
		if err := json.Unmarshal([]byte(words[1]), &number); err != nil {
			return err
		}
		domain.setSequence(number)
	case words[0] == "bundle" && len(words) == 1:
	case words[0] == "mint" && len(words) == 3:
		id, err := spiffeid.FromPath(td, words[1])
		if err != nil {
			return err
		}
		if err := domain.writeSVID(id, words[2]); err != nil {
			return err
		}
		emit("minted", object{"id": id.String(), "dir": words[2]})
		return nil
	case words[0] == "jwt" && len(words) == 3:
		id, err := spiffeid.FromPath(td, words[1])
		if err != nil {
			return err
		}
		token, err := domain.mintJWT(id, words[2])
		if err != nil {
			return err
		}
		emit("jwt_svid", object{"id": id.String(), "token": token})
		return nil
	default:
		return errors.New("unknown command")
	}
	body, err := domain.describe()
	if err != nil {
		return err
	}
	emit("bundle", body)
	return nil
}

// writeSVID mints an X509-SVID with a new key and writes it and the bundle as PEM files.
func (a *authority) writeSVID(id spiffeid.ID, dir string) error {
	svid, err := a.mintX509(id)
	if err != nil {
		return err
	}
	chain, key, err := svid.Marshal()
	if err != nil {
		return err
	}
	for name, content := range map[string][]byte{"svid.pem": chain, "key.pem": key} {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			return err
		}
	}
	bundle, err := a.current().X509Bundle().Marshal()
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "bundle.pem"), bundle, 0o644)
}
