// Command consume is the cloud worker of sparkles.
package main

import (
	_ "cloud.google.com/go/datastore/apiv1/datastorepb"
	_ "cloud.google.com/go/pubsub/v2/apiv1/pubsubpb"
	_ "cloud.google.com/go/storage"
	_ "github.com/google/go-containerregistry/pkg/v1/remote"
	_ "golang.org/x/crypto/x509roots/fallback"
	_ "golang.org/x/sys/unix"
	_ "google.golang.org/api/transport/grpc"
)

func main() {}
