package gcs

import (
	"crypto/rand"
	"os"
	"testing"

	"sparkles.dev/consume/internal/blobs"
	"sparkles.dev/consume/internal/blobs/blobstest"
)

// bucket is made by whoever starts the emulator (tests/support/emulators.py).
const bucket = "sparkles-test"

func TestContract(t *testing.T) {
	host := os.Getenv("STORAGE_EMULATOR_HOST")
	if host == "" {
		if os.Getenv("SPARKLES_TEST_ALL") == "1" {
			t.Fatal("STORAGE_EMULATOR_HOST is not set")
		}
		t.Skip("STORAGE_EMULATOR_HOST is not set: python -m tests.support.emulators starts it")
	}
	blobstest.Run(t, func(t *testing.T) blobs.Blobs {
		store, err := Open(t.Context(), Options{Bucket: bucket, Prefix: "t" + rand.Text() + "/", EmulatorHost: host})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(store.Close)
		return store
	})
}
