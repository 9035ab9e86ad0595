"""Words near in spelling that differ in meaning: known pairs, opposed prefixes, and consonants not adjacent on a
keyboard."""

_PAIRS = (
    "mitosis miosis, mitosis meiosis, insulin inulin, adsorption absorption, nucleotide nucleoside, neutron neutrino, thymine"
    " thiamine, cysteine cystine, stratus status, memoization memorization, hyperbola hyperbole, ellipse eclipse, convection"
    " convention, convection conviction, precession procession, nutation notation, nutation mutation, lepton leptin, isotope isotone,"
    " platonic plutonic, isotope isotype, paleocene paleogene, permian persian, europa europe, martin martian, trajan trojan, octavian"
    " octavia, valerian valeria, christian christina, theodore theodora, alexander alexandra, alexander alexandria, alexandra"
    " alexandria, atlanta atalanta, candide candida, evelina eveline, carmilla camilla, granada grenada, iceland ireland, samara"
    " samaria, carter cartier, concerto concert, metamorphosis metamorphoses, glycogen glucagon, creatine creatinine, perineum"
    " peritoneum, prostate prostrate, causal casual, desert dessert, ordinance ordnance, marital martial, interment internment,"
    " silicon silicone, urban urbane, moral morale, human humane, local locale, envelop envelope, cloth clothe, breath breathe, germane"
    " german, amine imine, benzene benzine, ether ester, form from, lion loin, calm clam, trail trial, diary dairy, angle angel, salt slat,"
    " sacred scared, united untied, mucus mucous, palate palette, statue statute, calvary cavalry, immanent imminent, phenyl phenol"
)
_DIFFERENT = frozenset(frozenset(pair.split()) for pair in _PAIRS.split(","))
_OPPOSED = "hyper hypo, inter intra, macro micro, endo exo, endo ecto, ante anti, pre pro, ab ad, em im, af ef, homo hetero, uni omni"
_PREFIXES = [pair.split() for pair in _OPPOSED.split(",")]
_SOUNDS = ("ckqsxz", "bp", "dt", "fvw", "gjy", "mn", "lr", "th")
_ROWS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")


def are_two_words(one: str, other: str) -> bool:
    """Whether two words, in normal form and near each other in spelling, are known to be two words."""
    first, second = one.removesuffix("s"), other.removesuffix("s")
    if {one, other} in _DIFFERENT or {first, second} in _DIFFERENT:
        return True
    for a, b in _PREFIXES:
        for this, that in ((one, other), (other, one)):
            if this.startswith(a) and that.startswith(b) and len(this) > len(a) + 3 and this[len(a) :] == that[len(b) :]:
                return True
    return _unlike_consonant(one, other)


def _unlike_consonant(one: str, other: str) -> bool:
    """Whether the words differ by one consonant for another that neither sounds like it nor lies beside it on the
    keyboard."""
    if len(one) != len(other):
        return False
    places = [n for n, (a, b) in enumerate(zip(one, other, strict=True)) if a != b]
    if len(places) != 1:
        return False
    a, b = one[places[0]], other[places[0]]
    vowels = "aeiou"
    if a in vowels or b in vowels or not (a + b).isascii():
        return False
    return not any(a in group and b in group for group in _SOUNDS) and not _beside(a, b)


def _beside(a: str, b: str) -> bool:
    where = {letter: (row, column) for row, letters in enumerate(_ROWS) for column, letter in enumerate(letters)}
    (row, column), (other_row, other_column) = where[a], where[b]
    return (row == other_row and abs(column - other_column) == 1) or (abs(row - other_row) == 1 and abs(column - other_column) <= 1)
