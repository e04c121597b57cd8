"""The cloud backend: jobs in Datastore, content in Cloud Storage, hints over Pub/Sub. SDKs are imported by the modules that need them."""
