package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"net/url"

	"github.com/spiffe/go-spiffe/v2/bundle/spiffebundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/jwtsvid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	agentv1 "github.com/spiffe/spire-api-sdk/proto/spire/api/server/agent/v1"
	bundlev1 "github.com/spiffe/spire-api-sdk/proto/spire/api/server/bundle/v1"
	entryv1 "github.com/spiffe/spire-api-sdk/proto/spire/api/server/entry/v1"
	svidv1 "github.com/spiffe/spire-api-sdk/proto/spire/api/server/svid/v1"
	"github.com/spiffe/spire-api-sdk/proto/spire/api/types"
	"google.golang.org/grpc/codes"
)

func (d *apiDriver) ownBundle(ctx context.Context) error {
	answer, err := bundlev1.NewBundleClient(d.conn).GetBundle(ctx, &bundlev1.GetBundleRequest{})
	if err != nil {
		return err
	}
	if answer.TrustDomain != d.td.Name() || answer.SequenceNumber == 0 {
		return fmt.Errorf("unexpected bundle %v", answer)
	}
	d.bundle = spiffebundle.New(d.td)
	for _, authority := range answer.X509Authorities {
		certificate, err := x509.ParseCertificate(authority.Asn1)
		if err != nil {
			return err
		}
		d.bundle.AddX509Authority(certificate)
	}
	for _, authority := range answer.JwtAuthorities {
		key, err := x509.ParsePKIXPublicKey(authority.PublicKey)
		if err != nil {
			return err
		}
		if err := d.bundle.AddJWTAuthority(authority.KeyId, key); err != nil {
			return err
		}
	}
	if len(answer.X509Authorities) == 0 || len(answer.JwtAuthorities) == 0 {
		return errors.New("the bundle lacks authorities of a kind")
	}
	masked, err := bundlev1.NewBundleClient(d.conn).GetBundle(ctx, &bundlev1.GetBundleRequest{OutputMask: &types.BundleMask{JwtAuthorities: true}})
	if err != nil {
		return err
	}
	if len(masked.X509Authorities) != 0 || len(masked.JwtAuthorities) == 0 || masked.SequenceNumber != 0 {
		return fmt.Errorf("the output mask was not kept: %v", masked)
	}
	return nil
}

func (d *apiDriver) mintX509(ctx context.Context) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	id, err := spiffeid.FromSegments(d.td, d.prefix, "minted")
	if err != nil {
		return err
	}
	csr := func(uris ...*url.URL) []byte {
		der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
			Subject: pkix.Name{Organization: []string{"MyOrg"}},
			URIs:    uris,
		}, key)
		if err != nil {
			panic(err) // a key made three lines above always signs
		}
		return der
	}
	client := svidv1.NewSVIDClient(d.conn)
	answer, err := client.MintX509SVID(ctx, &svidv1.MintX509SVIDRequest{Csr: csr(id.URL()), Ttl: 240})
	if err != nil {
		return err
	}
	chain := []*x509.Certificate{}
	for _, der := range answer.Svid.CertChain {
		certificate, err := x509.ParseCertificate(der)
		if err != nil {
			return err
		}
		chain = append(chain, certificate)
	}
	verified, _, err := x509svid.Verify(chain, d.bundle)
	if err != nil {
		return err
	}
	if verified != id || chain[0].Subject.String() != "O=MyOrg" || !key.PublicKey.Equal(chain[0].PublicKey) {
		return fmt.Errorf("minted SVID for %s with subject %s", verified, chain[0].Subject)
	}
	if lifetime := chain[0].NotAfter.Sub(chain[0].NotBefore).Seconds(); lifetime > 251 || lifetime < 230 {
		return fmt.Errorf("a minted SVID of 240 s lives %f s", lifetime)
	}
	for message, bad := range map[string][]byte{
		"CSR URI SAN is required":      csr(),
		"only one URI SAN is expected": csr(id.URL(), id.URL()),
		"missing CSR":                  nil,
	} {
		_, err := client.MintX509SVID(ctx, &svidv1.MintX509SVIDRequest{Csr: bad})
		if err := wantCode(err, codes.InvalidArgument, message); err != nil {
			return err
		}
	}
	return nil
}

func (d *apiDriver) mintJWT(ctx context.Context) error {
	client := svidv1.NewSVIDClient(d.conn)
	answer, err := client.MintJWTSVID(ctx, &svidv1.MintJWTSVIDRequest{Id: d.id("minted"), Audience: []string{"a", "b"}, Ttl: 60})
	if err != nil {
		return err
	}
	svid, err := jwtsvid.ParseAndValidate(answer.Svid.Token, d.bundle, []string{"b"})
	if err != nil {
		return err
	}
	if svid.ID.Path() != d.id("minted").Path || svid.Expiry.Unix() != answer.Svid.ExpiresAt || len(svid.Audience) != 2 {
		return fmt.Errorf("minted token is %v", svid)
	}
	_, err = client.MintJWTSVID(ctx, &svidv1.MintJWTSVIDRequest{Id: d.id("minted")})
	return wantCode(err, codes.InvalidArgument, "at least one audience is required")
}

func (d *apiDriver) joinToken(ctx context.Context) error {
	client := agentv1.NewAgentClient(d.conn)
	token, err := client.CreateJoinToken(ctx, &agentv1.CreateJoinTokenRequest{Ttl: 60, AgentId: d.id("token-node")})
	if err != nil {
		return err
	}
	if token.Value == "" || token.ExpiresAt == 0 {
		return fmt.Errorf("unexpected join token %v", token)
	}
	// The token's agent ID became an alias entry; remove it again.
	entries, err := entryv1.NewEntryClient(d.conn).ListEntries(ctx, &entryv1.ListEntriesRequest{
		Filter: &entryv1.ListEntriesRequest_Filter{BySpiffeId: d.id("token-node")},
	})
	if err != nil {
		return err
	}
	if len(entries.Entries) != 1 || entries.Entries[0].ParentId.Path != "/spire/agent/join_token/"+token.Value {
		return fmt.Errorf("alias entry of the token: %v", entries.Entries)
	}
	if _, err := entryv1.NewEntryClient(d.conn).BatchDeleteEntry(ctx, &entryv1.BatchDeleteEntryRequest{Ids: []string{entries.Entries[0].Id}}); err != nil {
		return err
	}
	_, err = client.CreateJoinToken(ctx, &agentv1.CreateJoinTokenRequest{})
	return wantCode(err, codes.InvalidArgument, "ttl is required, you must provide one")
}

func (d *apiDriver) agents(ctx context.Context) error {
	client := agentv1.NewAgentClient(d.conn)
	count, err := client.CountAgents(ctx, &agentv1.CountAgentsRequest{})
	if err != nil {
		return err
	}
	listed, err := client.ListAgents(ctx, &agentv1.ListAgentsRequest{})
	if err != nil {
		return err
	}
	if int(count.Count) != len(listed.Agents) {
		return fmt.Errorf("%d agents counted, %d listed", count.Count, len(listed.Agents))
	}
	for _, agent := range listed.Agents {
		got, err := client.GetAgent(ctx, &agentv1.GetAgentRequest{Id: agent.Id})
		if err != nil {
			return err
		}
		if got.X509SvidSerialNumber == "" || got.AttestationType == "" || got.Banned {
			return fmt.Errorf("unexpected agent %v", got)
		}
	}
	_, err = client.GetAgent(ctx, &agentv1.GetAgentRequest{Id: &types.SPIFFEID{TrustDomain: d.td.Name(), Path: "/spire/agent/none"}})
	return wantCode(err, codes.NotFound, "agent not found")
}
