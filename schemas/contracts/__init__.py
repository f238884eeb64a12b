"""The contracts between case systems, the door, the services and the partners.

`vocabulary` holds the field's terms; `facts` what may be known of a client, each field under its category;
`intake` what case systems publish; `leaving` what leaves the door; `requests` what the services ask of the
door; `replies` what a publisher is told. `make` writes `../events`, `../asyncapi.yaml` and `../openapi`
from them, which tests compare; `../examples` are written by hand and checked; `compatible` says which
change breaks a reader.
"""
