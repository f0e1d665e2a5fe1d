package main

import (
	"context"
	"errors"
	"fmt"

	entryv1 "github.com/spiffe/spire-api-sdk/proto/spire/api/server/entry/v1"
	"github.com/spiffe/spire-api-sdk/proto/spire/api/types"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
)

func (d *apiDriver) entries(ctx context.Context) error {
	client := entryv1.NewEntryClient(d.conn)
	before, err := client.CountEntries(ctx, &entryv1.CountEntriesRequest{})
	if err != nil {
		return err
	}
	wanted := &types.Entry{
		SpiffeId:    d.id("workload"),
		ParentId:    d.id("node"),
		Selectors:   []*types.Selector{{Type: "unix", Value: "uid:4001"}, {Type: "unix", Value: "gid:4001"}},
		X509SvidTtl: 300,
		JwtSvidTtl:  120,
		DnsNames:    []string{"first.example", "second.example"},
		Hint:        d.prefix + " hint",
	}
	created, err := client.BatchCreateEntry(ctx, &entryv1.BatchCreateEntryRequest{Entries: []*types.Entry{wanted}})
	if err != nil {
		return err
	}
	result := created.Results[0]
	if err := wantItem(result.Status, codes.OK, "OK"); err != nil {
		return err
	}
	entry := result.Entry
	if entry.Id == "" || entry.RevisionNumber != 0 || entry.CreatedAt == 0 || !proto.Equal(entry.SpiffeId, wanted.SpiffeId) ||
		len(entry.Selectors) != 2 || len(entry.DnsNames) != 2 || entry.DnsNames[0] != "first.example" || entry.X509SvidTtl != 300 {
		return fmt.Errorf("created entry differs: %v", entry)
	}
	again, err := client.BatchCreateEntry(ctx, &entryv1.BatchCreateEntryRequest{Entries: []*types.Entry{wanted}})
	if err != nil {
		return err
	}
	if err := wantItem(again.Results[0].Status, codes.AlreadyExists, "similar entry already exists"); err != nil {
		return err
	}
	if again.Results[0].Entry.GetId() != entry.Id {
		return errors.New("AlreadyExists did not return the existing entry")
	}
	got, err := client.GetEntry(ctx, &entryv1.GetEntryRequest{Id: entry.Id})
	if err != nil {
		return err
	}
	if !proto.Equal(got, entry) {
		return fmt.Errorf("GetEntry answers %v, BatchCreateEntry answered %v", got, entry)
	}
	listed, err := client.ListEntries(ctx, &entryv1.ListEntriesRequest{Filter: &entryv1.ListEntriesRequest_Filter{
		BySelectors: &types.SelectorMatch{Match: types.SelectorMatch_MATCH_SUPERSET, Selectors: wanted.Selectors[:1]},
		ByParentId:  wanted.ParentId,
	}})
	if err != nil {
		return err
	}
	if len(listed.Entries) != 1 || listed.Entries[0].Id != entry.Id {
		return fmt.Errorf("filtered list answers %v", listed.Entries)
	}
	updated, err := client.BatchUpdateEntry(ctx, &entryv1.BatchUpdateEntryRequest{
		Entries:   []*types.Entry{{Id: entry.Id, X509SvidTtl: 600}},
		InputMask: &types.EntryMask{X509SvidTtl: true},
	})
	if err != nil {
		return err
	}
	if err := wantItem(updated.Results[0].Status, codes.OK, "OK"); err != nil {
		return err
	}
	if changed := updated.Results[0].Entry; changed.X509SvidTtl != 600 || changed.RevisionNumber != 1 || changed.Hint != wanted.Hint {
		return fmt.Errorf("masked update gave %v", changed)
	}
	if err := d.pages(ctx, client); err != nil {
		return err
	}
	deleted, err := client.BatchDeleteEntry(ctx, &entryv1.BatchDeleteEntryRequest{Ids: []string{entry.Id, "no-such-entry"}})
	if err != nil {
		return err
	}
	if err := wantItem(deleted.Results[0].Status, codes.OK, "OK"); err != nil {
		return err
	}
	if err := wantItem(deleted.Results[1].Status, codes.NotFound, "entry not found"); err != nil {
		return err
	}
	_, err = client.GetEntry(ctx, &entryv1.GetEntryRequest{Id: entry.Id})
	if err := wantCode(err, codes.NotFound, "entry not found"); err != nil {
		return err
	}
	after, err := client.CountEntries(ctx, &entryv1.CountEntriesRequest{})
	if err != nil {
		return err
	}
	if after.Count != before.Count {
		return fmt.Errorf("%d entries before, %d after", before.Count, after.Count)
	}
	return nil
}

// pages creates five entries, reads them back two at a time and deletes them.
func (d *apiDriver) pages(ctx context.Context, client entryv1.EntryClient) error {
	const total = 5
	batch := []*types.Entry{}
	for i := range total {
		batch = append(batch, &types.Entry{
			SpiffeId:  d.id(fmt.Sprintf("page-%d", i)),
			ParentId:  d.id("page-node"),
			Selectors: []*types.Selector{{Type: "unix", Value: fmt.Sprintf("uid:%d", 5000+i)}},
		})
	}
	created, err := client.BatchCreateEntry(ctx, &entryv1.BatchCreateEntryRequest{Entries: batch})
	if err != nil {
		return err
	}
	ids := []string{}
	for _, result := range created.Results {
		if err := wantItem(result.Status, codes.OK, "OK"); err != nil {
			return err
		}
		ids = append(ids, result.Entry.Id)
	}
	seen, token := map[string]bool{}, ""
	for {
		page, err := client.ListEntries(ctx, &entryv1.ListEntriesRequest{
			Filter:    &entryv1.ListEntriesRequest_Filter{ByParentId: d.id("page-node")},
			PageSize:  2,
			PageToken: token,
		})
		if err != nil {
			return err
		}
		if len(page.Entries) > 2 {
			return fmt.Errorf("a page of 2 holds %d", len(page.Entries))
		}
		for _, entry := range page.Entries {
			if seen[entry.Id] {
				return fmt.Errorf("entry %s is on two pages", entry.Id)
			}
			seen[entry.Id] = true
		}
		if token = page.NextPageToken; token == "" {
			break
		}
	}
	if len(seen) != total {
		return fmt.Errorf("the pages hold %d of %d entries", len(seen), total)
	}
	_, err = client.BatchDeleteEntry(ctx, &entryv1.BatchDeleteEntryRequest{Ids: ids})
	return err
}

func (d *apiDriver) entryErrors(ctx context.Context) error {
	client := entryv1.NewEntryClient(d.conn)
	good := func(change func(*types.Entry)) *types.Entry {
		entry := &types.Entry{
			SpiffeId:  d.id("bad"),
			ParentId:  d.id("node"),
			Selectors: []*types.Selector{{Type: "unix", Value: "uid:1"}},
		}
		change(entry)
		return entry
	}
	answer, err := client.BatchCreateEntry(ctx, &entryv1.BatchCreateEntryRequest{Entries: []*types.Entry{
		good(func(e *types.Entry) { e.Selectors = nil }),
		good(func(e *types.Entry) { e.SpiffeId = nil }),
		good(func(e *types.Entry) { e.SpiffeId = &types.SPIFFEID{TrustDomain: "elsewhere.example", Path: "/x"} }),
		good(func(e *types.Entry) { e.Selectors = []*types.Selector{{Type: "a:b", Value: "c"}} }),
		good(func(e *types.Entry) { e.FederatesWith = []string{"never-heard-of.example"} }),
	}})
	if err != nil {
		return err
	}
	for i, result := range answer.Results {
		if codes.Code(result.Status.Code) == codes.OK {
			return fmt.Errorf("bad entry %d was created", i)
		}
		if code := codes.Code(result.Status.Code); i < 4 && code != codes.InvalidArgument {
			return fmt.Errorf("bad entry %d: %v", i, result.Status)
		}
	}
	const unknown = `failed to create entry: unable to find federated bundle "spiffe://never-heard-of.example"`
	if err := wantItem(answer.Results[4].Status, codes.Internal, unknown); err != nil {
		return err
	}
	_, err = client.GetEntry(ctx, &entryv1.GetEntryRequest{})
	return wantCode(err, codes.InvalidArgument, "missing ID")
}
