package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"flag"
	"fmt"
	"io"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	agentv1 "github.com/spiffe/spire-api-sdk/proto/spire/api/server/agent/v1"
	bundlev1 "github.com/spiffe/spire-api-sdk/proto/spire/api/server/bundle/v1"
	entryv1 "github.com/spiffe/spire-api-sdk/proto/spire/api/server/entry/v1"
	svidv1 "github.com/spiffe/spire-api-sdk/proto/spire/api/server/svid/v1"
	"github.com/spiffe/spire-api-sdk/proto/spire/api/types"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
)

// agentAPI is an agent in miniature: it attests with a join token, fetches what it is entitled to, signs one entry,
// renews itself, and is then refused with its first certificate's successor unused and the token spent.
func agentAPI(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("agent-api", flag.ExitOnError)
	trustDomain := flags.String("trust-domain", "", "trust domain of the issuer")
	address := flags.String("address", "", "host:port of the issuer")
	bundleFile := flags.String("bundle", "", "PEM trust bundle to bootstrap with")
	token := flags.String("join-token", "", "join token")
	if err := flags.Parse(args); err != nil {
		return err
	}
	td, err := spiffeid.TrustDomainFromString(*trustDomain)
	if err != nil {
		return err
	}
	serverID, err := spiffeid.FromPath(td, "/spire/server")
	if err != nil {
		return err
	}
	bundle, err := x509bundle.Load(td, *bundleFile)
	if err != nil {
		return err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		return err
	}

	// Attestation: server-authenticated TLS, no client certificate.
	plain, err := grpc.NewClient(*address, grpc.WithTransportCredentials(credentials.NewTLS(tlsconfig.TLSClientConfig(bundle, tlsconfig.AuthorizeID(serverID)))))
	if err != nil {
		return err
	}
	defer plain.Close()
	svid, err := attest(ctx, plain, *token, csr)
	if err != nil {
		return err
	}
	emit("attested", object{"id": "spiffe://" + svid.Id.TrustDomain + svid.Id.Path})
	if _, err := bundlev1.NewBundleClient(plain).GetBundle(ctx, &bundlev1.GetBundleRequest{}); err != nil {
		return fmt.Errorf("GetBundle without certificate: %w", err)
	}
	_, err = entryv1.NewEntryClient(plain).GetAuthorizedEntries(ctx, &entryv1.GetAuthorizedEntriesRequest{})
	if err := wantCode(err, codes.PermissionDenied, "authorization denied for method /spire.api.server.entry.v1.Entry/GetAuthorizedEntries"); err != nil {
		return err
	}
	// The agent that lost the answer may ask again with the same key; whoever else has the token may not.
	if svid, err = attest(ctx, plain, *token, csr); err != nil {
		return fmt.Errorf("repeated attestation: %w", err)
	}
	thief, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	stolen, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, thief)
	if err != nil {
		return err
	}
	_, err = attest(ctx, plain, *token, stolen)
	if err := wantCode(err, codes.InvalidArgument, "failed to attest: join token does not exist or has already been used"); err != nil {
		return fmt.Errorf("second use of the token: %w", err)
	}

	// From here on as the agent.
	identity, err := x509SVID(svid, key)
	if err != nil {
		return err
	}
	if _, _, err := x509svid.Verify(identity.Certificates, bundle); err != nil {
		return err
	}
	mtls, err := grpc.NewClient(*address, grpc.WithTransportCredentials(credentials.NewTLS(tlsconfig.MTLSClientConfig(identity, bundle, tlsconfig.AuthorizeID(serverID)))))
	if err != nil {
		return err
	}
	defer mtls.Close()
	if _, err := agentv1.NewAgentClient(mtls).PostStatus(ctx, &agentv1.PostStatusRequest{AgentVersion: "go-peer"}); err != nil {
		return fmt.Errorf("PostStatus: %w", err)
	}
	entries, err := entryv1.NewEntryClient(mtls).GetAuthorizedEntries(ctx, &entryv1.GetAuthorizedEntriesRequest{})
	if err != nil {
		return fmt.Errorf("GetAuthorizedEntries: %w", err)
	}
	synced, err := syncEntries(ctx, mtls)
	if err != nil {
		return fmt.Errorf("SyncAuthorizedEntries: %w", err)
	}
	if len(synced) != len(entries.Entries) {
		return fmt.Errorf("%d entries by GetAuthorizedEntries, %d by SyncAuthorizedEntries", len(entries.Entries), len(synced))
	}
	ids := []string{}
	for _, entry := range entries.Entries {
		if err := signEntry(ctx, mtls, bundle, entry); err != nil {
			return err
		}
		ids = append(ids, "spiffe://"+entry.SpiffeId.TrustDomain+entry.SpiffeId.Path)
	}
	_, err = entryv1.NewEntryClient(mtls).ListEntries(ctx, &entryv1.ListEntriesRequest{})
	if err := wantCode(err, codes.PermissionDenied, "authorization denied for method /spire.api.server.entry.v1.Entry/ListEntries"); err != nil {
		return fmt.Errorf("an agent is no administrator: %w", err)
	}
	renewed, err := agentv1.NewAgentClient(mtls).RenewAgent(ctx, &agentv1.RenewAgentRequest{Params: &agentv1.AgentX509SVIDParams{Csr: csr}})
	if err != nil {
		return fmt.Errorf("RenewAgent: %w", err)
	}
	if _, err := x509SVID(renewed.Svid, key); err != nil {
		return err
	}
	emit("done", object{"entries": ids})
	return nil
}

// attest runs the AttestAgent stream with a join token.
func attest(ctx context.Context, conn grpc.ClientConnInterface, token string, csr []byte) (*types.X509SVID, error) {
	stream, err := agentv1.NewAgentClient(conn).AttestAgent(ctx)
	if err != nil {
		return nil, err
	}
	err = stream.Send(&agentv1.AttestAgentRequest{Step: &agentv1.AttestAgentRequest_Params_{Params: &agentv1.AttestAgentRequest_Params{
		Data:   &types.AttestationData{Type: "join_token", Payload: []byte(token)},
		Params: &agentv1.AgentX509SVIDParams{Csr: csr},
	}}})
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	answer, err := stream.Recv()
	if err != nil {
		return nil, err
	}
	result := answer.GetResult()
	if result == nil || result.Reattestable {
		return nil, fmt.Errorf("unexpected answer %v", answer)
	}
	return result.Svid, nil
}

func syncEntries(ctx context.Context, conn grpc.ClientConnInterface) ([]*types.Entry, error) {
	stream, err := entryv1.NewEntryClient(conn).SyncAuthorizedEntries(ctx)
	if err != nil {
		return nil, err
	}
	if err := stream.Send(&entryv1.SyncAuthorizedEntriesRequest{}); err != nil {
		return nil, err
	}
	answer, err := stream.Recv()
	if err != nil {
		return nil, err
	}
	if len(answer.EntryRevisions) != 0 || answer.More {
		return nil, fmt.Errorf("a small set came as revisions: %v", answer)
	}
	return answer.Entries, stream.CloseSend()
}

// signEntry has one entry's X509-SVID signed and checks it.
func signEntry(ctx context.Context, conn grpc.ClientConnInterface, bundle x509bundle.Source, entry *types.Entry) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		return err
	}
	answer, err := svidv1.NewSVIDClient(conn).BatchNewX509SVID(ctx, &svidv1.BatchNewX509SVIDRequest{Params: []*svidv1.NewX509SVIDParams{
		{EntryId: entry.Id, Csr: csr},
		{EntryId: "not-mine", Csr: csr},
	}})
	if err != nil {
		return err
	}
	if err := wantItem(answer.Results[0].Status, codes.OK, "OK"); err != nil {
		return err
	}
	if err := wantItem(answer.Results[1].Status, codes.NotFound, "entry not found or not authorized"); err != nil {
		return err
	}
	svid, err := x509SVID(answer.Results[0].Svid, key)
	if err != nil {
		return err
	}
	id, _, err := x509svid.Verify(svid.Certificates, bundle)
	if err != nil {
		return err
	}
	if id.Path() != entry.SpiffeId.Path {
		return fmt.Errorf("entry of %s gave an SVID of %s", entry.SpiffeId.Path, id)
	}
	jwt, err := svidv1.NewSVIDClient(conn).NewJWTSVID(ctx, &svidv1.NewJWTSVIDRequest{EntryId: entry.Id, Audience: []string{"x"}})
	if err != nil {
		return err
	}
	if jwt.Svid.Token == "" || jwt.Svid.Id.Path != entry.SpiffeId.Path {
		return fmt.Errorf("unexpected JWT-SVID %v", jwt.Svid)
	}
	return nil
}

// x509SVID joins the API's certificate chain with the key it was made for; it fails if they do not belong together.
func x509SVID(svid *types.X509SVID, key *ecdsa.PrivateKey) (*x509svid.SVID, error) {
	encoded, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	chain := []byte{}
	for _, der := range svid.CertChain {
		chain = append(chain, der...)
	}
	return x509svid.ParseRaw(chain, encoded)
}
