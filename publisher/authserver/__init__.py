"""The XML-RPC face of the original authserver."""
