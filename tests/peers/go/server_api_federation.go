package main

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"fmt"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	bundlev1 "github.com/spiffe/spire-api-sdk/proto/spire/api/server/bundle/v1"
	trustdomainv1 "github.com/spiffe/spire-api-sdk/proto/spire/api/server/trustdomain/v1"
	"github.com/spiffe/spire-api-sdk/proto/spire/api/types"
	"google.golang.org/grpc/codes"
)

// partnerBundle is the bundle of a domain made on the spot.
func partnerBundle(name string) (*types.Bundle, error) {
	td, err := spiffeid.TrustDomainFromString(name)
	if err != nil {
		return nil, err
	}
	partner, err := newAuthority(td, 0)
	if err != nil {
		return nil, err
	}
	key, err := x509.MarshalPKIXPublicKey(partner.active.jwtKey.Public())
	if err != nil {
		return nil, err
	}
	return &types.Bundle{
		TrustDomain:     name,
		X509Authorities: []*types.X509Certificate{{Asn1: partner.active.ca.Raw}},
		JwtAuthorities:  []*types.JWTKey{{KeyId: partner.active.jwtID, PublicKey: key}},
		RefreshHint:     60,
	}, nil
}

func (d *apiDriver) federatedBundles(ctx context.Context) error {
	client := bundlev1.NewBundleClient(d.conn)
	name := d.prefix + "-partner.example"
	partner, err := partnerBundle(name)
	if err != nil {
		return err
	}
	set, err := client.BatchSetFederatedBundle(ctx, &bundlev1.BatchSetFederatedBundleRequest{Bundle: []*types.Bundle{partner}})
	if err != nil {
		return err
	}
	if err := wantItem(set.Results[0].Status, codes.OK, "OK"); err != nil {
		return err
	}
	again, err := client.BatchCreateFederatedBundle(ctx, &bundlev1.BatchCreateFederatedBundleRequest{Bundle: []*types.Bundle{partner}})
	if err != nil {
		return err
	}
	if err := wantItem(again.Results[0].Status, codes.AlreadyExists, "bundle already exists"); err != nil {
		return err
	}
	got, err := client.GetFederatedBundle(ctx, &bundlev1.GetFederatedBundleRequest{TrustDomain: name})
	if err != nil {
		return err
	}
	if got.TrustDomain != name || len(got.X509Authorities) != 1 || !bytes.Equal(got.X509Authorities[0].Asn1, partner.X509Authorities[0].Asn1) ||
		len(got.JwtAuthorities) != 1 || got.JwtAuthorities[0].KeyId != partner.JwtAuthorities[0].KeyId {
		return fmt.Errorf("the stored bundle is %v", got)
	}
	listed, err := client.ListFederatedBundles(ctx, &bundlev1.ListFederatedBundlesRequest{})
	if err != nil {
		return err
	}
	found := false
	for _, bundle := range listed.Bundles {
		found = found || bundle.TrustDomain == name
	}
	if !found {
		return errors.New("the bundle is not listed")
	}
	_, err = client.GetFederatedBundle(ctx, &bundlev1.GetFederatedBundleRequest{TrustDomain: d.td.Name()})
	const own = "getting a federated bundle for the server's own trust domain is not allowed"
	if err := wantCode(err, codes.InvalidArgument, own); err != nil {
		return err
	}
	deleted, err := client.BatchDeleteFederatedBundle(ctx, &bundlev1.BatchDeleteFederatedBundleRequest{TrustDomains: []string{name, name}})
	if err != nil {
		return err
	}
	if err := wantItem(deleted.Results[0].Status, codes.OK, "OK"); err != nil {
		return err
	}
	return wantItem(deleted.Results[1].Status, codes.NotFound, "bundle not found")
}

func (d *apiDriver) relationships(ctx context.Context) error {
	client := trustdomainv1.NewTrustDomainClient(d.conn)
	name := d.prefix + "-related.example"
	partner, err := partnerBundle(name)
	if err != nil {
		return err
	}
	created, err := client.BatchCreateFederationRelationship(ctx, &trustdomainv1.BatchCreateFederationRelationshipRequest{
		FederationRelationships: []*types.FederationRelationship{{
			TrustDomain:       name,
			BundleEndpointUrl: "https://127.0.0.1:1/" + name,
			BundleEndpointProfile: &types.FederationRelationship_HttpsSpiffe{
				HttpsSpiffe: &types.HTTPSSPIFFEProfile{EndpointSpiffeId: "spiffe://" + name + "/endpoint"},
			},
			TrustDomainBundle: partner,
		}},
	})
	if err != nil {
		return err
	}
	if err := wantItem(created.Results[0].Status, codes.OK, "OK"); err != nil {
		return err
	}
	got, err := client.GetFederationRelationship(ctx, &trustdomainv1.GetFederationRelationshipRequest{TrustDomain: name})
	if err != nil {
		return err
	}
	if got.GetHttpsSpiffe().GetEndpointSpiffeId() != "spiffe://"+name+"/endpoint" || len(got.GetTrustDomainBundle().GetX509Authorities()) != 1 {
		return fmt.Errorf("the stored relationship is %v", got)
	}
	updated, err := client.BatchUpdateFederationRelationship(ctx, &trustdomainv1.BatchUpdateFederationRelationshipRequest{
		FederationRelationships: []*types.FederationRelationship{{
			TrustDomain:           name,
			BundleEndpointUrl:     "https://localhost:1/" + name,
			BundleEndpointProfile: &types.FederationRelationship_HttpsWeb{HttpsWeb: &types.HTTPSWebProfile{}},
		}},
		InputMask: &types.FederationRelationshipMask{BundleEndpointUrl: true, BundleEndpointProfile: true},
	})
	if err != nil {
		return err
	}
	if err := wantItem(updated.Results[0].Status, codes.OK, "OK"); err != nil {
		return err
	}
	listed, err := client.ListFederationRelationships(ctx, &trustdomainv1.ListFederationRelationshipsRequest{})
	if err != nil {
		return err
	}
	found := false
	for _, relationship := range listed.FederationRelationships {
		found = found || (relationship.TrustDomain == name && relationship.GetHttpsWeb() != nil && relationship.BundleEndpointUrl == "https://localhost:1/"+name)
	}
	if !found {
		return fmt.Errorf("the updated relationship is not listed: %v", listed.FederationRelationships)
	}
	bad, err := client.BatchCreateFederationRelationship(ctx, &trustdomainv1.BatchCreateFederationRelationshipRequest{
		FederationRelationships: []*types.FederationRelationship{{
			TrustDomain:           name,
			BundleEndpointUrl:     "http://localhost/",
			BundleEndpointProfile: &types.FederationRelationship_HttpsWeb{HttpsWeb: &types.HTTPSWebProfile{}},
		}},
	})
	if err != nil {
		return err
	}
	if err := wantItem(bad.Results[0].Status, codes.InvalidArgument, ""); err != nil {
		return err
	}
	deleted, err := client.BatchDeleteFederationRelationship(ctx, &trustdomainv1.BatchDeleteFederationRelationshipRequest{TrustDomains: []string{name}})
	if err != nil {
		return err
	}
	if err := wantItem(deleted.Results[0].Status, codes.OK, "OK"); err != nil {
		return err
	}
	_, err = client.GetFederationRelationship(ctx, &trustdomainv1.GetFederationRelationshipRequest{TrustDomain: name})
	if err := wantCode(err, codes.NotFound, "federation relationship does not exist"); err != nil {
		return err
	}
	// Deleting the relationship leaves the bundle, as in SPIRE; remove it too.
	_, err = bundlev1.NewBundleClient(d.conn).BatchDeleteFederatedBundle(ctx, &bundlev1.BatchDeleteFederatedBundleRequest{TrustDomains: []string{name}})
	return err
}
