// kubepeer is a real Kubernetes API server with etcd inside, on loopback, for the tests of the publishers.
//
//	kubepeer DATA_DIR API_SERVER_FLAG...
package main

import (
	"fmt"
	"net/url"
	"os"

	"go.etcd.io/etcd/server/v3/embed"
	"k8s.io/component-base/cli"
	apiserver "k8s.io/kubernetes/cmd/kube-apiserver/app"
)

// startEtcd runs etcd in this process on free loopback ports and returns its client URL.
func startEtcd(dir string) (string, error) {
	free := []url.URL{{Scheme: "http", Host: "127.0.0.1:0"}}
	config := embed.NewConfig()
	config.Dir, config.LogLevel, config.UnsafeNoFsync = dir, "error", true
	config.ListenClientUrls, config.AdvertiseClientUrls = free, free
	config.ListenPeerUrls, config.AdvertisePeerUrls = free, free
	config.InitialCluster = config.InitialClusterFromName(config.Name)
	server, err := embed.StartEtcd(config)
	if err != nil {
		return "", err
	}
	select {
	case <-server.Server.ReadyNotify():
		return "http://" + server.Clients[0].Addr().String(), nil
	case err := <-server.Err():
		return "", err
	}
}

func main() {
	if len(os.Args) < 2 {
		fmt.Fprintln(os.Stderr, "usage: kubepeer DATA_DIR API_SERVER_FLAG...")
		os.Exit(2)
	}
	etcd, err := startEtcd(os.Args[1])
	if err != nil {
		fmt.Fprintln(os.Stderr, "kubepeer: etcd:", err)
		os.Exit(1)
	}
	os.Args = append([]string{"kubepeer", "--etcd-servers=" + etcd}, os.Args[2:]...)
	os.Exit(cli.Run(apiserver.NewAPIServerCommand()))
}
