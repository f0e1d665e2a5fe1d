package main

import (
	"context"
	"flag"
	"fmt"

	"github.com/spiffe/go-spiffe/v2/bundle/spiffebundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
	debugv1 "github.com/spiffe/spire-api-sdk/proto/spire/api/server/debug/v1"
	loggerv1 "github.com/spiffe/spire-api-sdk/proto/spire/api/server/logger/v1"
	"github.com/spiffe/spire-api-sdk/proto/spire/api/types"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
)

// serverAPI drives the SPIRE Server API as an administrator: over the issuer's local socket, or over mTLS with the
// X509-SVID the Workload API gives (its entry must be an admin entry). It reports each step and stops at the first
// answer that is not what SPIRE's API promises.
func serverAPI(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("server-api", flag.ExitOnError)
	trustDomain := flags.String("trust-domain", "", "trust domain of the issuer")
	socket := flags.String("socket", "", "local socket, unix:///path")
	address := flags.String("address", "", "host:port, instead of -socket")
	workloadSocket := flags.String("workload-socket", "", "with -address: Workload API address")
	prefix := flags.String("prefix", "go", "first part of the path of every identity the program makes")
	if err := flags.Parse(args); err != nil {
		return err
	}
	td, err := spiffeid.TrustDomainFromString(*trustDomain)
	if err != nil {
		return err
	}
	target, creds := *socket, insecure.NewCredentials()
	if *address != "" {
		source, err := workloadapi.NewX509Source(ctx, workloadapi.WithClientOptions(workloadapi.WithAddr(*workloadSocket)))
		if err != nil {
			return err
		}
		defer source.Close()
		serverID, err := spiffeid.FromPath(td, "/spire/server")
		if err != nil {
			return err
		}
		target = *address
		creds = credentials.NewTLS(tlsconfig.MTLSClientConfig(source, source, tlsconfig.AuthorizeID(serverID)))
	}
	conn, err := grpc.NewClient(target, grpc.WithTransportCredentials(creds))
	if err != nil {
		return err
	}
	defer conn.Close()
	api := &apiDriver{conn: conn, td: td, prefix: *prefix, local: *address == ""}
	steps := []struct {
		name string
		run  func(context.Context) error
	}{
		{"bundle", api.ownBundle},
		{"entries", api.entries},
		{"entry-errors", api.entryErrors},
		{"x509-mint", api.mintX509},
		{"jwt-mint", api.mintJWT},
		{"join-token", api.joinToken},
		{"agents", api.agents},
		{"federated-bundles", api.federatedBundles},
		{"relationships", api.relationships},
		{"local-only", api.localOnly},
	}
	for _, step := range steps {
		if err := step.run(ctx); err != nil {
			return fmt.Errorf("%s: %w", step.name, err)
		}
		emit("step", object{"name": step.name})
	}
	emit("done", nil)
	return nil
}

// apiDriver is one administrator's connection.
type apiDriver struct {
	conn   grpc.ClientConnInterface
	td     spiffeid.TrustDomain
	prefix string
	local  bool
	bundle *spiffebundle.Bundle
}

func (d *apiDriver) id(name string) *types.SPIFFEID {
	return &types.SPIFFEID{TrustDomain: d.td.Name(), Path: "/" + d.prefix + "/" + name}
}

// wantCode fails unless err is a gRPC status of that code and, if given, exactly that message.
func wantCode(err error, code codes.Code, message string) error {
	got := status.Convert(err)
	if got.Code() != code || (message != "" && got.Message() != message) {
		return fmt.Errorf("want %s %q, got %s %q", code, message, got.Code(), got.Message())
	}
	return nil
}

func wantItem(item *types.Status, code codes.Code, message string) error {
	if item == nil || codes.Code(item.Code) != code || (message != "" && item.Message != message) {
		return fmt.Errorf("want item status %s %q, got %v", code, message, item)
	}
	return nil
}

// localOnly checks the services that exist on the local socket alone.
func (d *apiDriver) localOnly(ctx context.Context) error {
	health, err := grpc_health_v1.NewHealthClient(d.conn).Check(ctx, &grpc_health_v1.HealthCheckRequest{})
	if !d.local {
		if err := wantCode(err, codes.Unimplemented, ""); err != nil {
			return fmt.Errorf("health over TCP: %w", err)
		}
		_, err = debugv1.NewDebugClient(d.conn).GetInfo(ctx, &debugv1.GetInfoRequest{})
		return wantCode(err, codes.Unimplemented, "")
	}
	if err != nil {
		return err
	}
	if health.Status != grpc_health_v1.HealthCheckResponse_SERVING {
		return fmt.Errorf("health is %s", health.Status)
	}
	info, err := debugv1.NewDebugClient(d.conn).GetInfo(ctx, &debugv1.GetInfoRequest{})
	if err != nil {
		return err
	}
	if len(info.SvidChain) < 2 || info.SvidChain[0].Id.Path != "/spire/server" {
		return fmt.Errorf("debug info is %v", info)
	}
	logger, err := loggerv1.NewLoggerClient(d.conn).GetLogger(ctx, &loggerv1.GetLoggerRequest{})
	if status.Code(err) == codes.Unimplemented {
		emit("not_built", object{"service": "Logger"})
		return nil
	}
	if err != nil {
		return err
	}
	changed, err := loggerv1.NewLoggerClient(d.conn).SetLogLevel(ctx, &loggerv1.SetLogLevelRequest{NewLevel: types.LogLevel_DEBUG})
	if err != nil {
		return err
	}
	if changed.CurrentLevel != types.LogLevel_DEBUG || changed.LaunchLevel != logger.LaunchLevel {
		return fmt.Errorf("logger is %v", changed)
	}
	_, err = loggerv1.NewLoggerClient(d.conn).ResetLogLevel(ctx, &loggerv1.ResetLogLevelRequest{})
	return err
}
