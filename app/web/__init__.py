"""What HTTP and people see: problem documents, headers, CORS, pages."""
