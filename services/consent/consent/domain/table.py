"""Every way in which something is withheld, in the order in which the rules bind: docs/reference/rules.md."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Rule:
    """One way in which something is withheld."""

    code: str
    withholds: str
    remedy: str
    """What would make it possible."""
    source: str
    """In law or practice."""
    told: Literal["openly", "quietly", "never"] = "openly"
    """What the recipient learns: the rule; that something is withheld, not why; or not even that there is something."""


BEFORE = (
    Rule(
        "unknown-client",
        "The service's reference is of no client, or of one who was erased.",
        "Use the subject of a cleared record.",
        "promise 1: nothing leaves without a decision, and there is no client to decide about",
    ),
    Rule(
        "unknown-recipient",
        "Nobody is registered under the recipient's id.",
        "Register the recipient with the door.",
        "promise 1: nothing leaves without a decision, and there is no recipient to decide for",
    ),
)
"""What is told where nothing can be decided: a service of ours asks for a recipient or about a client that is none."""

DENIES = (
    Rule(
        "held",
        "A stopping event named this client and could not be applied.",
        "Operations must ask its publisher what it meant and lift the hold.",
        "promise 5: what was meant to stop sharing stops it",
        "quietly",
    ),
    Rule(
        "conflicting-identity",
        "The client's numbers contradict each other, or a link with another client was undone.",
        "A person must decide who this client is: GET /candidates.",
        "accuracy: UK GDPR article 5(1)(d)",
        "quietly",
    ),
    Rule(
        "not-its-purpose",
        "One of our services would get something for a purpose that it does not act for.",
        "Nothing makes this possible.",
        "purpose limitation: UK GDPR article 5(1)(b)",
        "never",
    ),
    Rule(
        "restricted",
        "A restriction reaches this recipient, purpose and category.",
        "Only the agency that imposed the restriction lifts it.",
        "practice: limited-access records and exclusions in probation, safety of victims and witnesses;"
        " UK GDPR article 5(1)(f)",
        "quietly",
    ),
    Rule(
        "exclusion-not-enforced",
        "A practitioner of the recipient is excluded, and the recipient has not undertaken to the source to enforce"
        " exclusions, whoever asks; or it is the excluded practitioner who asks.",
        "Let the recipient sign an agreement with the source in which it undertakes to enforce exclusions.",
        "practice: exclusions of named staff in probation; UK GDPR article 5(1)(f)",
        "quietly",
    ),
    Rule(
        "spent-conviction",
        "The conviction is spent and the recipient is neither prison, probation nor police.",
        "Nothing makes this possible.",
        "Rehabilitation of Offenders Act 1974 s.4, s.9(2); stricter than s.9(3), by which the client may ask that it be"
        " told; that these three are told is practice",
        "never",
    ),
    Rule(
        "spent-unknown",
        "It cannot be told whether the conviction is spent, and the recipient is neither prison, probation nor police.",
        "Its source must record the sentence in months and its end, the day from which it is spent, or that it never"
        " is.",
        "Rehabilitation of Offenders Act 1974 s.4, s.5; accuracy: UK GDPR article 5(1)(d)",
        "never",
    ),
)
"""What denies, whatever permits. The first that applies is the reason."""

LACKS = (
    Rule(
        "no-agreement",
        "No agreement lets the source tell the recipient anything for this purpose.",
        "Sign an information-sharing agreement between the source and the recipient for this purpose.",
        "practice, stricter than the law: the Information Commissioner's data sharing code (Data Protection Act 2018"
        " s.121) advises an agreement and does not demand it",
        "never",
    ),
    Rule(
        "not-subscribed",
        "Nobody asked for it, and the agreement lets the source tell the recipient only when somebody does.",
        "Ask for it, or sign a version of the agreement with a subscription.",
        "data minimisation: UK GDPR article 5(1)(c)",
        "never",
    ),
    Rule(
        "agreement-not-in-force",
        "The agreement has not begun or has ended.",
        "Sign a new version of the agreement.",
        "practice: an agreement holds for a time and is reviewed",
    ),
    Rule(
        "agreement-suspended",
        "The agreement is suspended.",
        "Ask the parties of the agreement to settle why it was suspended and to resume it.",
        "practice: a party may stop sharing under an agreement at once",
    ),
    Rule(
        "agreement-category",
        "The agreement does not cover this category for this purpose.",
        "Sign a version of the agreement that covers it.",
        "data minimisation: UK GDPR article 5(1)(c)",
        "never",
    ),
    Rule(
        "gateway-does-not-reach",
        "The statutory gateway of the agreement does not reach these parties, this purpose or this category, or nobody"
        " invoked it for this client.",
        "It takes another basis, such as consent, or a gateway invoked for this client.",
        "the act of each gateway, below",
    ),
    Rule(
        "no-consent",
        "No consent names this recipient, purpose and category.",
        "Ask the client for consent that names them.",
        "UK GDPR articles 4(11), 6(1)(a), 9(2)(a)",
    ),
    Rule(
        "consent-not-current",
        "The consent has not begun or has expired.",
        "Ask the client again.",
        "practice: consent is given for a time; UK GDPR article 4(11)",
    ),
    Rule(
        "own-word",
        "The recipient itself recorded the consent, invoked the gateway or authorised the override.",
        "Another agency must say it; for a consent, or the gateway of an agreement, the agreement may say that the"
        " recipient's word counts.",
        "practice: nobody opens a permit for itself; consent must be shown, UK GDPR article 7(1)",
    ),
    Rule(
        "form-used-before",
        "The form of this consent was used for an earlier one: it may be a late or repeated copy.",
        "Record the client's consent on a new form.",
        "consent must be shown: UK GDPR article 7(1)",
    ),
    Rule(
        "consent-withdrawn",
        "The client withdrew.",
        "Only consent given afterwards, on a new form, makes it possible.",
        "UK GDPR article 7(3)",
    ),
    Rule(
        "consent-refused",
        "The client was asked and said no.",
        "Respect it. If the client comes back to it, record the consent on a new form.",
        "consent is freely given: UK GDPR articles 4(11), 7(4)",
    ),
)
"""What is missing for a permit. Of several, the last is the reason: that of the way that got furthest."""

RULES = (*DENIES, *LACKS)
"""Every rule by which a decision withholds; where nothing permits and no rule spoke, it is `no-agreement`."""

NEVER_TOLD = frozenset(r.code for r in RULES if r.told == "never")
QUIETLY_TOLD = frozenset(r.code for r in RULES if r.told == "quietly")
REMEDIES = {rule.code: rule.remedy for rule in (*BEFORE, *RULES)}
RANK = {rule.code: rank for rank, rule in enumerate(RULES)}
