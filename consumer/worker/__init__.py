"""The service: deliveries become batches, batches are applied, then acked."""
