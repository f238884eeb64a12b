"""Referral: a directory of services, and referrals from a need to the service that fits, through the door."""
