package main

import (
	"context"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"os"
	"sort"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/spiffebundle"
	"github.com/spiffe/go-spiffe/v2/federation"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// federationClient fetches a trust domain's bundle with go-spiffe's federation package, once or again and again.
func federationClient(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("federation-client", flag.ExitOnError)
	trustDomain := flags.String("trust-domain", "", "trust domain whose bundle is fetched")
	url := flags.String("url", "", "bundle endpoint URL")
	profile := flags.String("profile", "", "https_web or https_spiffe")
	caFile := flags.String("ca-file", "", "https_web: PEM roots")
	endpointID := flags.String("endpoint-id", "", "https_spiffe: SPIFFE ID of the endpoint")
	bootstrap := flags.String("bootstrap", "", "https_spiffe: bundle of the endpoint's trust domain, SPIFFE JSON")
	every := flags.Duration("every", 0, "watch with this refresh time instead of fetching once")
	if err := flags.Parse(args); err != nil {
		return err
	}
	td, err := spiffeid.TrustDomainFromString(*trustDomain)
	if err != nil {
		return err
	}
	var option federation.FetchOption
	var held *spiffebundle.Set
	switch *profile {
	case "https_web":
		pem, err := os.ReadFile(*caFile)
		if err != nil {
			return err
		}
		roots := x509.NewCertPool()
		if !roots.AppendCertsFromPEM(pem) {
			return fmt.Errorf("no certificate in %s", *caFile)
		}
		option = federation.WithWebPKIRoots(roots)
	case "https_spiffe":
		id, err := spiffeid.FromString(*endpointID)
		if err != nil {
			return err
		}
		bundle, err := spiffebundle.Load(id.TrustDomain(), *bootstrap)
		if err != nil {
			return err
		}
		held = spiffebundle.NewSet(bundle)
		option = federation.WithSPIFFEAuth(held, id)
	default:
		return fmt.Errorf("unknown profile %q", *profile)
	}
	if *every == 0 {
		bundle, err := federation.FetchBundle(ctx, td, *url, option)
		if err != nil {
			return err
		}
		emit("bundle", describe(bundle))
		return nil
	}
	watching, stop := context.WithCancel(ctx)
	defer stop()
	go func() {
		// The parent closes standard input to end the watch.
		_ = commands(watching, func([]string) error { return errors.New("unknown command") })
		stop()
	}()
	err = federation.WatchBundle(watching, td, *url, bundleWatcher{held: held, every: *every}, option)
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

type bundleWatcher struct {
	held  *spiffebundle.Set
	every time.Duration
}

func (w bundleWatcher) NextRefresh(time.Duration) time.Duration { return w.every }

func (w bundleWatcher) OnUpdate(bundle *spiffebundle.Bundle) {
	if w.held != nil {
		// The next fetch authenticates the endpoint with what this one brought, as the standard asks.
		w.held.Add(bundle)
	}
	emit("bundle", describe(bundle))
}

func (w bundleWatcher) OnError(err error) { emit("fetch_error", object{"error": err.Error()}) }

// describe tells what a bundle holds by key IDs.
func describe(bundle *spiffebundle.Bundle) object {
	x509Keys := []string{}
	for _, authority := range bundle.X509Authorities() {
		x509Keys = append(x509Keys, hex.EncodeToString(authority.SubjectKeyId))
	}
	jwtKeys := []string{}
	for kid := range bundle.JWTAuthorities() {
		jwtKeys = append(jwtKeys, kid)
	}
	sort.Strings(jwtKeys)
	body := object{"trust_domain": bundle.TrustDomain().Name(), "x509_authorities": x509Keys, "jwt_authorities": jwtKeys}
	if sequence, ok := bundle.SequenceNumber(); ok {
		body["sequence"] = sequence
	}
	if hint, ok := bundle.RefreshHint(); ok {
		body["refresh_hint_seconds"] = int64(hint / time.Second)
	}
	return body
}
