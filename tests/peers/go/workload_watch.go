package main

import (
	"context"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"sort"
	"strings"

	"github.com/spiffe/go-spiffe/v2/bundle/jwtbundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/jwtsvid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
)

// workloadWatch keeps an X509Source and a JWTSource on the Workload API and reports each update.
//
// Commands: `jwt AUDIENCE` fetches a JWT-SVID and validates it with the source's bundles; `validate AUDIENCE TOKEN`
// asks the agent to validate; `verify-locally AUDIENCE TOKEN` validates with the source's bundles.
func workloadWatch(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("workload-watch", flag.ExitOnError)
	socket := flags.String("socket", "", "Workload API address, unix:///path")
	if err := flags.Parse(args); err != nil {
		return err
	}
	client, err := workloadapi.New(ctx, workloadapi.WithAddr(*socket))
	if err != nil {
		return fmt.Errorf("workload API client: %w", err)
	}
	defer client.Close()
	x509Source, err := workloadapi.NewX509Source(ctx, workloadapi.WithClient(client))
	if err != nil {
		return fmt.Errorf("X509Source: %w", err)
	}
	defer x509Source.Close()
	jwtSource, err := workloadapi.NewJWTSource(ctx, workloadapi.WithClient(client))
	if err != nil {
		return fmt.Errorf("JWTSource: %w", err)
	}
	defer jwtSource.Close()

	failed := make(chan error, 4)
	report := func(err error) {
		if err != nil && !errors.Is(err, context.Canceled) {
			select {
			case failed <- err:
			default:
			}
		}
	}
	watching, stop := context.WithCancel(ctx)
	defer stop()

	if err := reportX509(x509Source); err != nil {
		return err
	}
	go func() {
		for {
			select {
			case <-watching.Done():
				return
			case <-x509Source.Updated():
				report(reportX509(x509Source))
			}
		}
	}()
	go func() { report(client.WatchX509Context(watching, contextWatcher{report})) }()
	go func() { report(client.WatchJWTBundles(watching, jwtBundleWatcher{report})) }()

	done := make(chan error, 1)
	go func() {
		done <- commands(watching, func(words []string) error {
			return workloadCommand(watching, client, jwtSource, words)
		})
	}()
	select {
	case err := <-failed:
		return err
	case err := <-done:
		return err
	}
}

// reportX509 checks the source's own SVID against the source's own bundle and reports it.
func reportX509(source *workloadapi.X509Source) error {
	svid, err := source.GetX509SVID()
	if err != nil {
		return fmt.Errorf("X509-SVID of the source: %w", err)
	}
	id, _, err := x509svid.Verify(svid.Certificates, source)
	if err != nil {
		return fmt.Errorf("the source's own SVID does not verify: %w", err)
	}
	emit("x509_source", object{
		"id":               id.String(),
		"serial":           svid.Certificates[0].SerialNumber.String(),
		"authority_key_id": hex.EncodeToString(svid.Certificates[0].AuthorityKeyId),
		"not_after":        svid.Certificates[0].NotAfter.Unix(),
		"hint":             svid.Hint,
	})
	return nil
}

type contextWatcher struct{ report func(error) }

func (w contextWatcher) OnX509ContextUpdate(update *workloadapi.X509Context) {
	bundles := map[string][]string{}
	for _, bundle := range update.Bundles.Bundles() {
		keys := []string{}
		for _, authority := range bundle.X509Authorities() {
			keys = append(keys, hex.EncodeToString(authority.SubjectKeyId))
		}
		bundles[bundle.TrustDomain().Name()] = keys
	}
	ids := []string{}
	for _, svid := range update.SVIDs {
		if _, _, err := x509svid.Verify(svid.Certificates, update.Bundles); err != nil {
			w.report(fmt.Errorf("SVID %s of one update does not verify with the bundles of that update: %w", svid.ID, err))
		}
		ids = append(ids, svid.ID.String())
	}
	emit("x509_context", object{"ids": ids, "bundles": bundles})
}

func (w contextWatcher) OnX509ContextWatchError(err error) { watchError("x509", err) }

type jwtBundleWatcher struct{ report func(error) }

func (w jwtBundleWatcher) OnJWTBundlesUpdate(set *jwtbundle.Set) {
	bundles := map[string][]string{}
	for _, bundle := range set.Bundles() {
		kids := []string{}
		for kid := range bundle.JWTAuthorities() {
			kids = append(kids, kid)
		}
		sort.Strings(kids)
		bundles[bundle.TrustDomain().Name()] = kids
	}
	emit("jwt_bundles", object{"bundles": bundles})
}

func (w jwtBundleWatcher) OnJWTBundlesWatchError(err error) { watchError("jwt", err) }

// watchError reports a broken stream; go-spiffe reconnects by itself.
func watchError(stream string, err error) {
	if !errors.Is(err, context.Canceled) && !strings.Contains(err.Error(), "context canceled") {
		emit("watch_error", object{"stream": stream, "error": err.Error()})
	}
}

func workloadCommand(ctx context.Context, client *workloadapi.Client, source *workloadapi.JWTSource, words []string) error {
	switch {
	case words[0] == "jwt" && len(words) >= 2:
		params := jwtsvid.Params{Audience: words[1], ExtraAudiences: words[2:]}
		svid, err := source.FetchJWTSVID(ctx, params)
		if err != nil {
			return err
		}
		if _, err := jwtsvid.ParseAndValidate(svid.Marshal(), source, []string{words[1]}); err != nil {
			return fmt.Errorf("the agent's own JWT-SVID does not validate: %w", err)
		}
		emit("jwt_svid", object{"id": svid.ID.String(), "audience": svid.Audience, "token": svid.Marshal(), "expires_at": svid.Expiry.Unix()})
	case words[0] == "validate" && len(words) == 3:
		svid, err := client.ValidateJWTSVID(ctx, words[2], words[1])
		if err != nil {
			emit("invalid", object{"error": err.Error()})
			return nil
		}
		emit("valid", object{"id": svid.ID.String(), "claims": svid.Claims})
	case words[0] == "verify-locally" && len(words) == 3:
		svid, err := jwtsvid.ParseAndValidate(words[2], source, []string{words[1]})
		if err != nil {
			emit("invalid", object{"error": err.Error()})
			return nil
		}
		emit("valid", object{"id": svid.ID.String(), "claims": svid.Claims})
	case words[0] == "jwt-bundle" && len(words) == 2:
		td, err := spiffeid.TrustDomainFromString(words[1])
		if err != nil {
			return err
		}
		bundle, err := source.GetJWTBundleForTrustDomain(td)
		if err != nil {
			emit("no_bundle", object{"trust_domain": words[1], "error": err.Error()})
			return nil
		}
		emit("jwt_bundle", object{"trust_domain": words[1], "keys": len(bundle.JWTAuthorities())})
	default:
		return errors.New("unknown command")
	}
	return nil
}
