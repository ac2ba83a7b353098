"""The words of the small world: what there is, before the seed decides who does what where."""

from __future__ import annotations


def _rows(table: str) -> tuple[tuple[str, ...], ...]:
    """Split a table of one row a line, cells between colons."""
    return tuple(tuple(cell.strip() for cell in line.split(":")) for line in table.strip().splitlines())


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.replace("_", " ") for word in text.split())


SHE_NAMES = _words(
    "Ada Anna Beth Clara Dora Edith Ella Emma Fay Flora Greta Hanna Ida Irma Jane June Kate Lena Lily Lucy "
    "Mara Maud Mina Nell Nora Olga Pia Rosa Ruth Sara Stella Tess Thea Una Vera Wanda Willa Ylva Zelda Zoe"
)
HE_NAMES = _words(
    "Adam Alan Ben Bruno Carl Colin Dan Dirk Emil Eric Felix Frank Gus Hans Hugo Ivan Jack Joel Karl Kurt "
    "Leo Lars Mark Max Ned Nils Otto Paul Pete Ralf Rolf Sam Sven Theo Tom Uli Vic Walt Yan Zack"
)
SURNAME_HEADS = _words(
    "Ash Bar Birch Black Bram Car Cole Dal Dun East Fal Fen Gar Glen Hal Har Hol Ker Lam Lin "
    "Mal Mar Nor Oak Pen Per Ran Rey Sel Sand Tal Thorn Ul Van Wal West Win Wood Yar Zel"
)
SURNAME_TAILS = _words("ley man by son wright er ner ham more stone vale croft")
TOWN_HEADS = _words("Or Bren Tol Vel Mir Kes Lun Stor Hav Ald Grim Rav Tarn Eld Skar Nym Ost Pell Dov Cald")
TOWN_TAILS = _words("vik dale ford mere ton holm wick mouth gate haven")
RIVERS = _words("Aire Bela Crane Dove Esk Fleet Gade Isis Lune Mole Nene Ouse Rye Severn Tame Wye")
REGIONS = _words("Arland Bellmark Corvia Dunmoor Estria Farrow Galden Hestia")
MONTHS = _words("January February March April May June July August September October November December")
DAYS = _words("Monday Tuesday Wednesday Thursday Friday Saturday Sunday")
INSTRUMENTS = _words("flute harp fiddle drum horn organ lute piano trumpet cello")
PETS = _words("cat dog parrot pony tortoise goat ferret canary rabbit hen")
DISHES = _words(
    "onion_soup plum_cake fish_pie barley_bread lamb_stew apple_tart bean_salad cheese_dumplings "
    "roast_duck honey_porridge pea_soup nut_roast"
)
CLIMATES = _words("cold_and_dry cold_and_wet mild_and_dry mild_and_wet hot_and_dry hot_and_wet windy foggy")
COINS = _words("crown florin farthing ducat groat thaler shilling guilder")
LANGUAGES = _words("Arlic Belle Corvish Dunic Estrian Farro Galdish Hesti")
EXPORTS = _words("barley wool salt timber wine copper coal tea")
COLOURS = _words("red blue green white black yellow purple orange")
PRODUCTS = _words(
    "bells boots candles carpets clocks hats kites knives lace lamps pots ropes saddles soap toys wagons"
)
ROOMS = _words("attic cellar kitchen shed hall study pantry stable workshop porch library bedroom")
EVENT_HEADS = _words("Long Great Copper Silver Second Winter Summer Broken Quiet Golden Northern Southern")
EVENT_TAILS = _words("Frost Fair Flood March Treaty Strike Race Siege Harvest Voyage")
CAUSES = _words(
    "a_cold_spring a_lost_letter a_new_tax a_dry_well a_royal_wedding a_broken_bridge "
    "a_stolen_bell heavy_rain"
)

ANIMALS = _rows("""
fox: the forest: mice: mammal: night: a kit
badger: the forest: roots: mammal: night: a cub
deer: the forest: leaves: mammal: dawn: a fawn
squirrel: the treetops: nuts: mammal: day: a kitten
owl: the treetops: mice: bird: night: an owlet
woodpecker: the treetops: beetles: bird: day: a chick
otter: the river: fish: mammal: dawn: a pup
trout: the river: flies: fish: day: a fry
heron: the marsh: fish: bird: day: a chick
frog: the marsh: flies: amphibian: night: a tadpole
newt: the pond: worms: amphibian: dawn: a larva
duck: the pond: weeds: bird: day: a duckling
swan: the lake: weeds: bird: day: a cygnet
pike: the lake: frogs: fish: dusk: a fry
beaver: the river: bark: mammal: night: a kit
seal: the coast: fish: mammal: day: a pup
gull: the coast: crabs: bird: dawn: a chick
crab: the coast: weeds: crustacean: night: a larva
shark: the open sea: fish: fish: night: a pup
whale: the open sea: shrimps: mammal: day: a calf
cod: the open sea: shrimps: fish: day: a fry
lobster: the sea floor: worms: crustacean: night: a larva
camel: the desert: thorns: mammal: day: a calf
lizard: the desert: beetles: reptile: day: a hatchling
scorpion: the desert: beetles: arachnid: night: a nymph
snake: the heath: mice: reptile: dusk: a hatchling
spider: the barn: flies: arachnid: night: a spiderling
swallow: the barn: flies: bird: day: a chick
bat: the cave: moths: mammal: night: a pup
bear: the mountains: honey: mammal: day: a cub
goat: the mountains: grass: mammal: day: a kid
eagle: the mountains: rabbits: bird: day: an eaglet
wolf: the plains: deer: mammal: night: a pup
hare: the plains: grass: mammal: dawn: a leveret
horse: the plains: grass: mammal: day: a foal
mole: the meadow: worms: mammal: night: a pup
bee: the meadow: nectar: insect: day: a larva
moth: the meadow: nectar: insect: night: a caterpillar
lynx: the snow: hares: mammal: dusk: a kitten
goose: the marsh: grass: bird: day: a gosling
""")

PLANTS = _rows("""
oak: clay: brown: autumn: ships
birch: sand: white: spring: brooms
willow: wet ground: green: spring: baskets
pine: rock: brown: winter: masts
yew: chalk: red: winter: bows
ash: clay: black: spring: handles
flax: loam: blue: summer: linen
cotton: dry soil: white: autumn: cloth
hemp: loam: green: summer: rope
barley: chalk: yellow: summer: beer
rye: sand: grey: summer: bread
hops: loam: green: autumn: beer
madder: sand: red: autumn: dye
woad: clay: blue: summer: dye
saffron: dry soil: purple: autumn: spice
mustard: loam: yellow: spring: spice
mint: wet ground: green: summer: tea
rose: clay: pink: summer: perfume
lavender: dry soil: purple: summer: perfume
nettle: wet ground: green: spring: soup
reed: wet ground: brown: winter: roofs
apple: loam: red: autumn: cider
plum: clay: purple: summer: jam
heather: rock: purple: autumn: honey
""")

TRADES = _rows("""
baker: the bakery: an oven: loaves
smith: the forge: an anvil: horseshoes
carpenter: the timber yard: a workbench: tables
potter: the kiln house: a wheel: jugs
weaver: the mill: a loom: blankets
tailor: the cloth hall: a thimble: coats
cobbler: the back lane: a last: shoes
mason: the quarry: a plumb line: walls
miller: the windmill: a millstone: flour
brewer: the brewery: a copper vat: ale
fisher: the harbour: a net: salted fish
farmer: the fields: a plough: grain
doctor: the clinic: a stethoscope: cures
teacher: the school: a blackboard: lessons
printer: the print shop: a press: books
sailor: the docks: a compass: sea charts
miner: the pit: a pickaxe: ore
gardener: the greenhouse: a spade: seedlings
painter: the studio: an easel: portraits
clerk: the town hall: a ledger: records
judge: the court: a gavel: rulings
chemist: the laboratory: a flask: medicines
jeweller: the arcade: a loupe: rings
shepherd: the hills: a crook: wool
""")

OBJECTS = {
    "wood": _words(
        "plank ladder barrel chair spoon crate oar fence table shelf cradle stool door flute wheel sledge "
        "mast bench rake gate"
    ),
    "metal": _words(
        "kettle hinge chain nail bucket anchor bell sword key pan gear pipe coin hook shovel lock stove "
        "rail buckle spring"
    ),
    "stone": _words(
        "statue step column slab arch trough doorstep tomb wall bridge well hearth tower kerb fountain "
        "pillar dam lintel altar pavement"
    ),
    "cloth": _words(
        "shirt curtain sail flag tent apron blanket scarf skirt towel banner sack cloak quilt napkin vest "
        "sheet bonnet cushion hammock"
    ),
    "paper": _words(
        "map letter kite poster card book lantern ticket envelope chart diary stamp notice calendar label "
        "sketch menu journal scroll receipt"
    ),
    "glass": _words(
        "window bottle mirror vase jar lens bead tumbler pane dome globe prism goblet flask skylight "
        "lampshade dish beaker ornament decanter"
    ),
    "leather": _words(
        "boot saddle belt glove harness purse whip bridle apron_strap shoe strap satchel holster collar "
        "wallet bellows sandal drumskin jerkin pouch"
    ),
    "clay": _words(
        "jug brick tile bowl pot cup urn oven plate pipe_bowl figurine basin saucer teapot crock mug "
        "amphora lamp_base planter whistle"
    ),
}
MATERIALS = tuple(OBJECTS)

# The tool for an action on a material: the rule the two-way family asks for. Columns follow MATERIALS.
_TOOL_TABLE = _rows("""
cut: a saw: a hacksaw: a chisel: some shears: a pair of scissors: a diamond wheel: a round knife: a thin wire
join: nails: solder: mortar: a needle and thread: paste: clear cement: waxed cord: wet slip
clean: a damp rag: a wire brush: a stiff broom: soapy water: a soft eraser: vinegar: saddle soap: a wet sponge
smooth: a plane: a file: a rubbing block: a hot iron: a bone folder: a felt pad: a slicker: a steel rib
mark: a pencil: a scriber: a chalk line: tailor's chalk: a pen: a wax crayon: a stamp: a pointed stick
colour: varnish: enamel: limewash: dye: watercolour: silver stain: tinted oil: glaze
protect: linseed oil: grease: sealant: a cedar chest: a folder: a padded box: beeswax: a straw bed
test: a sharp tap: a magnet: a plumb bob: a light tug: a lamp: a loud note: a slow bend: a drop of water
""")
ACTIONS = tuple(row[0] for row in _TOOL_TABLE)
TOOLS = {(row[0], material): row[1 + i] for row in _TOOL_TABLE for i, material in enumerate(MATERIALS)}
THIRD = {action: action + "s" for action in ACTIONS}

# The order of work in each craft: what a continuation has to know.
SCRIPTS = {
    "Making": ("mark", "cut", "join", "smooth", "colour", "protect"),
    "Mending": ("test", "clean", "join", "mark", "smooth", "protect"),
    "Renewing": ("clean", "smooth", "mark", "colour", "test", "protect"),
    "Copying": ("test", "mark", "cut", "colour", "join", "clean"),
}

# What two tradespeople have to do with each other, told from either side.
SCENES = (
    ("{a} waited for {b}", "{b} was awaited by {a}"),
    ("{a} met {b} on the road", "{b} was met on the road by {a}"),
    ("{a} thanked {b}", "{b} was thanked by {a}"),
    ("{a} wrote to {b}", "{b} had a letter from {a}"),
    ("{a} helped {b}", "{b} was helped by {a}"),
    ("{a} followed {b} home", "{b} was followed home by {a}"),
    ("{a} paid {b}", "{b} was paid by {a}"),
    ("{a} asked {b} for advice", "{b} was asked for advice by {a}"),
)

# Why, in words that fit one trade alone: its place, its tool, its product.
REASONS = ("worked at {}.", "had lost {}.", "sold {}.")
