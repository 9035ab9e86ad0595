"""Names that are one name: abbreviations, chemical symbols, given names in other languages and for short."""

ALIASES = {
    "us": "united states", "usa": "united states", "united states of america": "united states", "america": "united states",
    "uk": "united kingdom", "great britain": "united kingdom", "britain": "united kingdom", "ussr": "soviet union",
    "union of soviet socialist republics": "soviet union", "prc": "peoples republic of china", "uae": "united arab emirates",
    "un": "united nations", "eu": "european union", "nyc": "new york city", "ww1": "world war 1", "wwi": "world war 1",
    "ww2": "world war 2", "wwii": "world war 2", "1 world war": "world war 1", "2 world war": "world war 2",
    "great war": "world war 1", "wwone": "world war 1", "mlk": "martin luther king", "jfk": "john f kennedy",
    "fdr": "franklin delano roosevelt", "lbj": "lyndon baines johnson", "deoxyribonucleic acid": "dna", "ribonucleic acid": "rna",
    "adenosine triphosphate": "atp", "mt": "mount", "dr": "doctor", "ft": "fort", "st": "saint", "ste": "saint", "h2o": "water",
    "co2": "carbon dioxide", "nacl": "sodium chloride", "nh3": "ammonia", "ch4": "methane", "o2": "oxygen", "n2": "nitrogen",
    "o3": "ozone", "gdp": "gross domestic product", "ai": "artificial intelligence", "nato": "north atlantic treaty organization",
    "organisation": "organization", "colour": "color", "grey": "gray", "aluminum": "aluminium", "sulphur": "sulfur",
    "centimeter": "cm", "centimeters": "cm", "kilometer": "km", "kilometers": "km", "kilogram": "kg", "kilograms": "kg",
    "theatre": "theater", "centre": "center", "defence": "defense", "vergil": "virgil",
    "quijote": "quixote", "chinggis": "genghis", "dao de jing": "tao te ching", "daodejing": "tao te ching", "daoism": "taoism",
    "pi": "pi", "π": "pi",
}  # fmt: skip
"""Names that are one name, in normal form; both sides of a comparison are written the second way."""
SYMBOLS = {
    "H": "hydrogen", "He": "helium", "Li": "lithium", "Be": "beryllium", "B": "boron", "C": "carbon", "N": "nitrogen", "O": "oxygen",
    "F": "fluorine", "Ne": "neon", "Na": "sodium", "Mg": "magnesium", "Al": "aluminium", "Si": "silicon", "P": "phosphorus",
    "S": "sulfur", "Cl": "chlorine", "Ar": "argon", "K": "potassium", "Ca": "calcium", "Ti": "titanium", "Cr": "chromium",
    "Mn": "manganese", "Fe": "iron", "Co": "cobalt", "Ni": "nickel", "Cu": "copper", "Zn": "zinc", "Ga": "gallium", "As": "arsenic",
    "Se": "selenium", "Br": "bromine", "Kr": "krypton", "Ag": "silver", "Cd": "cadmium", "Sn": "tin", "I": "iodine", "Xe": "xenon",
    "Ba": "barium", "W": "tungsten", "Pt": "platinum", "Au": "gold", "Hg": "mercury", "Pb": "lead", "Bi": "bismuth", "Rn": "radon",
    "Ra": "radium", "Th": "thorium", "U": "uranium", "Pu": "plutonium",
}  # fmt: skip
"""Counted only where the whole answer is a symbol, with its own capitals."""
_SAME_NAMES = (
    "pyotr peter, lev leo, karl charles, wilhelm william, johann john, ivan john, jean john, josef joseph, franz francis, ludwig"
    " louis, theodore teddy, theodore ted, william bill, william will, robert bob, richard dick, james jim, james jimmy, john jack,"
    " john johnny, thomas tom, samuel sam, benjamin ben, alexander alex, edward ed, edward ted, edgar ed, elizabeth liz, margaret"
    " maggie, katherine kate, michael mike, mikhail michael, nikolai nicholas, fyodor theodore, alexandre alexander, aleksandr"
    " alexander, friedrich frederick, heinrich henry, henri henry, ernest ernie, charles chuck, albert bert, albert al, henry harry,"
    " henry hank, lawrence larry, andrew andy, daniel dan, david dave, matthew matt, gregory greg, patrick pat, susan sue, anna anne,"
    " katherine catherine, ekaterina catherine, giovanni john, giuseppe joseph, guillaume william, jacques james, carlos charles, carl"
    " charles, felipe philip, pablo paul, pedro peter, pierre peter, pietro peter, miguel michael, michel michael, jorge george, georg"
    " george, yuri george, nicolas nicholas, nicolaus nicholas, luis louis, luigi louis"
)
SAME = [set(pair.split()) for pair in _SAME_NAMES.split(",")]
"""Given names that are one name."""
_GIVEN_NAMES = (
    "abraham adam ada albert alexander alfred alice andrew anna anne anton antonio arthur august benjamin bertrand carl charles"
    " charlotte christopher claude daniel david dmitri donald edgar edith edward edwin eleanor elizabeth emily emma enrico ernest"
    " erwin eugene ferdinand florence francis frank franklin franz frederick friedrich gabriel galileo george georg gerald"
    " giuseppe grace gustav hannah hans harriet harry heinrich helen henri henry herbert herman hermann howard hugo igor immanuel"
    " isaac isabel jacob james jane jean jimmy joan johann johannes john jonathan joseph josef jorge julia julius karl katherine"
    " kurt leo leon leonard leonardo lewis linus louis lucy ludwig margaret maria marie mark martin mary max michael mikhail"
    " miguel napoleon neil nelson niels nikola nikolai oliver oscar otto pablo paul peter philip pierre rachel ralph ray richard"
    " robert roger ronald rosa rosalind rudolf rudolph samuel sarah sergei sigmund simon simone sophia stephen steven susan sylvia"
    " theodore thomas toni ulysses victor vincent virginia vladimir walt walter werner wilhelm william winston wolfgang woodrow"
    " zora"
)
GIVEN = frozenset(_GIVEN_NAMES.split())
"""Common given names: a plain answer that begins with one is a person, whose last name will do."""
_LONGEST = max(len(name.split()) for name in ALIASES)


def unify_names(tokens: list[str]) -> list[str]:
    """The words with other names of one thing written one way."""
    made: list[str] = []
    place = 0
    while place < len(tokens):
        for size in range(min(_LONGEST, len(tokens) - place), 0, -1):
            name = " ".join(tokens[place : place + size])
            if name in ALIASES:
                made += ALIASES[name].split()
                place += size
                break
            if size == 1 and len(name) > 4 and name.endswith("s") and name[:-1] in ALIASES:  # colours
                made += (ALIASES[name[:-1]] + "s").split()
                place += size
                break
        else:
            made.append(tokens[place])
            place += 1
    return made
