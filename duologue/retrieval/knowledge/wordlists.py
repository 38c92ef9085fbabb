"""English words that question and documents are read by: what to skip, to discount, to equate."""

from __future__ import annotations

STOP_WORDS = frozenset(
    """
        a about actually again all also am an and any anybody anyone anything are aren't as at
        be been being but by can can't cannot could couldn't did didn't do does doesn't doing
        don't else er ever for from get give go going gonna got had has hasn't have haven't
        having he hello her here hers hey hi him his hm how i i'd i'll i'm i've if in into is
        isn't it it'd it'll it's its just kind know kindly let let's like little look lot may
        maybe me might mine more most much must my need no not now of off oh ok okay on one's or
        our ours out over past please quite really right say she should so some somebody someone
        something sort sorry such sure tell than thank thanks that that's the their theirs them
        then there there's these they they're thing things think this those though to too um uh
        up us very want wanna was wasn't we we're well were weren't what what's whats when
        when's where where's wheres which who who's whos whom whose why will with wonder
        wondering won't would wouldn't yeah yes yet you you're your yours
    """.split()  # noqa: SIM905
)
"""Words that say nothing about the subject of a question, among them the fillers of speech."""

GENERIC_WORDS = frozenset(
    """
        able add address age ago allow amount animal answer appear area arrive art ask aspect
        baby bad base become begin believe best better big bit body book boy break bring
        building business buy call car care carry case cause center central century certain
        chance change check child choose city clear close club color come common company compare
        complete condition consider contain continent continue control correct cost count
        country couple course cover create current cut date day deal decide describe detail
        develop difference different difficult direction discover discuss distance door double
        draw drive early easy eat effect end enjoy enough enter event exact example exist expect
        explain face fact fall family famous far fast father feel few field figure final find
        fine finish first follow food force form found free friend full fun game general girl
        good government great ground group grow guess guy half hand happen happy hard head
        health hear heart help high history hold home hope hour house idea image important
        include information inside interest issue item job join keep keyword kid king large last
        late law lead learn leave left less letter level life line list listen live local locate
        long lose lot love low main major man manner many mark matter mean measure meet member
        mention middle mind minute moment money month morning mother move music name nation
        nature near necessary new next nice night normal note notice number object offer office
        often old only open opinion option order original other own page paper parent part
        particular party pass pay people per percent perhaps period person phone piece place
        plan planet plant play point popular position possible power present president pretty
        price problem process produce product program provide public pull purpose put question
        quick quiet range rate reach read ready real reason receive recent record region related
        remain remember remind rent report research rest result return room rule run same school
        science season second section see seem sell send sense series serious serve service set
        several shape share short show side sign similar simple since single sir sit site
        situation size small social sound source space speak special spell spend stand start
        state statement stay step still stop store story street strong student study subject
        suggest summer support surface system table take talk tall teacher team term test text
        three time title today together tomorrow tonight top total touch toward town trade
        travel trip true try turn two type under understand unit until use user usual value
        various version view visit voice wait walk wall war water way week whole wide win window
        wish without woman word work world worth write wrong year yesterday young
    """.split()  # noqa: SIM905
)
"""Words so common that a question may have them for no reason of its subject's."""

ASKING_WORDS = frozenset(
    """
        afraid answer anyhow anyway ask asked asking assistant bother bring broken called check
        computer curious document exactly explain fail fails favour favor file find folder forget
        forgot forgotten
        hear heard hint hope hurry idea inform instead know known knew listen lookup meant memory
        mention mentioned minute moment moshi note notes quickly read recall record records remember
        remind reminded reply respond said saying search second seem show someday speak spell stored
        tell telling told wanted wants wonder wondered wren written
    """.split()  # noqa: SIM905
)
"""Words with which people ask, speak to who is asked or say why they ask, whatever it is about."""

COURTESIES = frozenset(
    """
        awesome brilliant bye cheers cool day excellent fantastic fine funny good goodbye goodnight
        great help helped helpful helps interesting kind know lovely nice perfect see super thank
        thanks wonderful wow
    """.split()  # noqa: SIM905
)
"""What people answer to an answer; a turn that has nothing else asks for nothing."""

SYNONYMS = (
    "cost price fee charge",
    "tall height high",
    "long length",
    "wide width",
    "deep depth",
    "old age founded built",
    "big large size",
    "found founded established created started",
    "built constructed erected",
    "invented inventor invention",
    "wrote written author",
    "located location situated address",
    "close closing shut",
    "begin start beginning starting",
    "end finish ending",
    "buy purchase",
    "phone telephone call",
    "kids children child",
    "film movie",
    "doctor physician",
    "shop store",
    "job occupation profession",
    "boss director head chief",
    "hours times open opening",
    "inhabitants population people",
    "died death",
    "born birth",
    "currency money",
    "neighbor neighbour border bordering",
    "suitcase luggage baggage",
    "car vehicle automobile",
    "park parking",
    "wifi wireless internet network online",
    "breakfast morning",
    "lunch noon midday",
    "dinner supper evening",
    "rubbish trash garbage waste bin",
    "flat apartment",
    "house home residence",
    "ill sick unwell",
    "medicine drug pill tablet medication",
    "pharmacy chemist drugstore",
    "lift elevator",
    "holiday vacation",
    "teacher instructor tutor",
    "colleague coworker",
    "repair fix mend",
    "broken fails failed defective",
    "toilet restroom bathroom lavatory",
    "film cinema",
    "email mail",
    "guest visitor",
    "worker employee staff",
    "client customer",
    "deliver delivery shipping shipped",
    "cancel cancellation",
    "refund reimbursement",
    "allowed permitted allow permit",
    "forbidden prohibited banned",
    "dog dogs pet pets",
    "swim swimming pool",
    "key keys",
    "wife husband spouse partner",
    "mother mom mum",
    "father dad",
    "grandmother grandma granny",
    "grandfather grandpa granddad",
)
"""Words that people ask with for words that documents use, English; a line is one group."""

MEMBERS = {
    "continent": "africa america antarctica asia australia europe oceania",
    "color colour": "black blue brown gray green orange pink purple red white yellow",
    "day weekday": "monday tuesday wednesday thursday friday saturday sunday",
    "month": "january february march april may june july august september october november "
    "december",
    "season": "spring summer autumn winter",
    "heating boiler radiator leak tap pipe drain": "plumber",
    "fuse socket power wiring": "electrician",
    "tooth teeth toothache": "dentist",
    "eye eyes glasses": "optician",
    "hair haircut": "hairdresser barber",
    "lock locked": "locksmith",
    "fire smoke": "firefighters extinguisher",
    "fever ill sick cough": "doctor",
    "grass hedge lawn": "gardener",
    "bread rolls": "bakery baker",
    "meat sausage": "butcher",
    "parcel package letter stamp": "post",
    "fruit": "apple pear plum cherry peach grape banana orange",
    "vegetable": "carrot potato onion cabbage tomato pea bean",
    "animal pet": "cat dog horse rabbit hamster parrot",
    "metal": "iron copper gold silver tin zinc steel",
}
"""What people ask with, and what documents answer with: kinds and their members, troubles and who
mends them. It does not hold the other way round."""
