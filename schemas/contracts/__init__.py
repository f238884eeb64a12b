"""The contracts between case systems, the door, the services and the partners.

`vocabulary` holds the field's terms; `facts` what may be known of a client, each field under its category (`fields`).
By Kafka go `intake`, what case systems publish; `replies`, what they are told; `leaving`, what leaves the door;
`requests`, what the services ask of it; and `heads`, the signed heads of its ledger. Over HTTP go `agreements` and
`views`. `proof` and `merkle` are how anyone checks what left. `door`, `cleared` and `cleared_rows` are what our
services share.

`make` writes `../events`, `../asyncapi.yaml` (`asyncapi`), `../openapi` and pages of docs/reference (`settings_page`)
from the models, which tests compare; `../examples` are written by hand and checked; `topics` reads `../topics`;
`compatible` says which change breaks a reader.
"""
