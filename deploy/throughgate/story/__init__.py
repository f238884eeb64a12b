"""The story that the demonstration plays: synthetic people, real agencies' ways, nothing but topics and HTTP.

`cast` is who takes part and what they publish, `setting` what must be known before, `world` how they reach the system,
`play` what happens and what must come of it, `report` what each partner was told in the end. It drives a system from
outside and imports no service.
"""
