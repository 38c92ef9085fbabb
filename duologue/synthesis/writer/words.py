"""Plain English word lists: the raw material of free sentences and of the user's own facts."""

from __future__ import annotations

import re

from duologue.synthesis.wordlist import listed

REJECTED = re.compile(r"bitch|cock|cunt|dick|fuck|hitler|kill|nazi|porn|rap(e|ist)|sex|shit|slut")
"""What nobody has to say, in lists of others' words."""

OBJECTS = listed(
    """
    key wallet passport umbrella notebook charger bicycle lamp camera ladder hammer guitar
    piano blanket pillow basket bottle candle carpet clock compass drum envelope flag glove
    helmet jacket kettle lantern mirror needle oven pencil quilt radio saddle scarf shovel
    spoon suitcase table teapot tent ticket towel trumpet vase violin wagon watch whistle
    window printer keyboard battery bucket button cable calendar cushion drawer folder hook
    jar jug magnet map mug napkin paddle paintbrush pan poster purse rope ruler sandal
    screwdriver shelf sock sponge stapler stamp stool tray trophy tripod wrench zipper
    telescope microscope thermometer backpack
    """
)
ANIMALS = listed(
    """
    cat dog horse rabbit parrot turtle hamster goat sheep donkey fox owl eagle heron badger
    beaver bear camel crow deer dolphin duck falcon ferret frog goose hedgehog lizard lynx
    mole moose mouse otter panda penguin pigeon pony raven robin salmon seal shark snail
    sparrow spider squirrel stork swan tiger toad trout walrus weasel whale wolf zebra
    butterfly beetle
    """
)
FOODS = listed(
    """
    apple apricot banana barley bean berry biscuit bread broccoli butter cabbage cake carrot
    celery cheese cherry chestnut chicken chocolate cinnamon corn cream cucumber dumpling
    fig fish garlic ginger grape honey jam leek lemon lentil lime mango melon milk mint
    mushroom mustard noodle nut oat olive onion orange oyster pancake parsley pea peach pear
    pepper pie plum potato pumpkin radish raisin rice salad salt sauce sesame soup spinach
    sugar tea toast tomato vanilla walnut wheat yogurt
    """
)
COLOURS = listed(
    """
    red orange yellow green blue purple pink brown black white gray golden crimson turquoise
    violet scarlet beige ivory maroon olive
    """
)
ADJECTIVES = listed(
    """
    small large old new quiet loud bright dark heavy light warm cold narrow wide gentle
    clever careful brave calm curious dusty early empty famous fancy fresh friendly funny
    honest hungry lazy lonely lovely lucky modern nervous noisy patient plain polite proud
    rare rough round sharp shiny short shy silent simple slow smooth soft spare square steep
    strange strong sweet tall thick thin tidy tiny tired useful wild wooden young broken
    crooked frozen hidden
    """
)
PEOPLE = listed(
    """
    aunt uncle cousin sister brother teacher doctor nurse baker butcher carpenter captain
    chemist clerk coach cook dentist driver engineer farmer fisherman gardener guard guide
    judge lawyer librarian mayor mechanic miller musician neighbour painter photographer
    pilot plumber poet porter potter sailor scientist secretary shepherd singer soldier
    student surgeon tailor waiter weaver writer manager trainer dancer editor
    """
)
PLACES = listed(
    """
    kitchen cellar attic garden garage hallway bedroom office library harbour market station
    museum castle bridge church school hospital theater airport bakery factory farm forest
    hill island lake meadow mill mountain orchard park pharmacy river square stable stadium
    tower tunnel valley village workshop beach canyon cave cottage courtyard desert field
    fountain palace playground restaurant warehouse zoo
    """
)
THINGS_SAID = listed(
    """
    weather traffic music breakfast summer winter homework football painting cooking
    sleeping travelling reading fishing swimming cycling dancing chess history mathematics
    geography astronomy poetry photography carpentry knitting gardening sailing climbing
    skating
    """
)
VERBS_PAST = listed(
    """
    bought sold found lost painted cleaned repaired carried dropped borrowed hid opened
    closed washed measured moved built broke brought caught chose counted covered described
    designed drew examined fixed followed forgot gathered held imagined invented kept lifted
    liked loved noticed packed polished praised pulled pushed received remembered reported
    saved showed sketched stole studied threw touched tried used visited watched weighed
    wrapped
    """
)
ADVERBS = listed(
    """
    slowly quickly quietly carefully gladly suddenly proudly gently early late yesterday
    today again twice often never always nearly almost finally
    """
)
FIRST_NAMES = listed(
    """
    Anna Ben Clara David Emma Felix Grace Henry Ida Jack Karen Leo Maria Nina Oscar Paula
    Quentin Rosa Simon Tara Ursula Victor Wendy Xavier Yara Zoe Albert Beth Carlos Diana
    Edgar Fiona Greg Hannah Ivan Julia Kevin Laura Martin Nora Otto Peter Ruth Sara Thomas
    Vera Walter Alice Bruno Cecil Doris Erik Frank Gloria Hugo Irene Jonas Kate Linda Max
    Noah Olga Paul Rachel Steven
    """
)
TITLES = (
    "Silent River", "Golden Gate", "Winter Garden", "Last Lantern", "Broken Clock", "Blue Window",
    "Seven Bridges", "Hidden Valley", "Paper Moon", "Northern Light", "Stone Harbour",
    "Long Road", "Empty Chair", "Morning Train", "Salt and Honey", "Glass Mountain",
)  # fmt: skip
MATERIALS = listed(
    """
    wood stone glass paper leather wool cotton silk clay brick plastic rubber steel
    """
)
