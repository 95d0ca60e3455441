"""What can be asked of the gateway, as values: OpenAPI, AsyncAPI and the page of documentation are made of these."""
