"""What the generated world is made of: its things, colours, textures and scenes, and their names in five languages.

Most things are nouns of ImageNet-21k, as the objects of web pictures are. The order is the order of the codes
in `world.FACTORS`; earlier things are more frequent in the pool.
"""

THINGS = (
    "mug", "car", "house", "tree", "cat", "fish", "apple", "hat", "star", "boat", "key", "mushroom",
    "bottle", "flower", "umbrella", "bell", "banana", "rabbit", "pear", "heart",
)  # fmt: skip
FOOD = ("apple", "mushroom", "banana", "pear")
ANIMALS = ("cat", "fish", "rabbit")
MAIN_THINGS = THINGS[:12]
"""The things of the main classification task and its shifts; the rest is rarer."""

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (214, 40, 38), "green": (40, 160, 60), "blue": (40, 80, 220), "yellow": (248, 218, 40),
    "orange": (250, 136, 20), "purple": (130, 50, 170), "pink": (250, 140, 190), "brown": (125, 75, 35),
    "black": (24, 24, 26), "white": (248, 248, 248),
}  # fmt: skip
COLOUR_NAMES = tuple(COLOURS)

TEXTURES = ("plain", "striped", "dotted", "checkered", "zigzag", "wavy", "grid", "brick", "speckled")
THING_TEXTURES = 4
"""Things have the first four textures; all of them are seen from close by."""

SCENES: dict[str, tuple[str, str, tuple[int, int, int], tuple[int, int, int]]] = {
    # name: (phrase in a caption, texture, two colours)
    "studio": ("on a plain background", "plain", (205, 205, 205), (205, 205, 205)),
    "forest": ("in the forest", "speckled", (26, 84, 40), (60, 50, 20)),
    "sea": ("at sea", "wavy", (40, 120, 190), (120, 190, 230)),
    "desert": ("in the desert", "wavy", (222, 184, 120), (196, 150, 86)),
    "meadow": ("in a meadow", "striped", (130, 200, 80), (100, 175, 60)),
    "city": ("in the city", "grid", (128, 132, 140), (90, 92, 100)),
    "snow": ("in the snow", "speckled", (226, 236, 246), (190, 206, 226)),
    "kitchen": ("in the kitchen", "checkered", (238, 240, 232), (150, 190, 200)),
    "wall": ("in front of a brick wall", "brick", (166, 86, 66), (206, 186, 170)),
    "sunset": ("at sunset", "plain", (250, 130, 70), (110, 50, 120)),
}
SCENE_NAMES = tuple(SCENES)

NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
SIZES = ("small", "medium", "large")
PLACES = ("centre", "left", "right", "top", "bottom")
PLACE_PHRASES = ("in the centre", "on the left", "on the right", "at the top", "at the bottom")
GAPS = ("touching", "close", "far apart")
WRITTEN = ("GOOD", "BAD", "STOP", "SALE", "OPEN", "HELLO")
"""Words that stand in pictures, in captions too, lower-cased."""

FLAGS: dict[str, tuple[str, str, str, str]] = {
    # country: (v for upright or h for lying stripes, three colours)
    "France": ("v", "blue", "white", "red"), "Italy": ("v", "green", "white", "red"),
    "Ireland": ("v", "green", "white", "orange"), "Belgium": ("v", "black", "yellow", "red"),
    "Romania": ("v", "blue", "yellow", "red"), "Mali": ("v", "green", "yellow", "red"),
    "Peru": ("v", "red", "white", "red"), "Nigeria": ("v", "green", "white", "green"),
    "Germany": ("h", "black", "red", "yellow"), "Netherlands": ("h", "red", "white", "blue"),
    "Russia": ("h", "white", "blue", "red"), "Austria": ("h", "red", "white", "red"),
    "Hungary": ("h", "red", "white", "green"), "Bulgaria": ("h", "white", "green", "red"),
    "Estonia": ("h", "blue", "black", "white"), "Lithuania": ("h", "yellow", "green", "red"),
}  # fmt: skip
COUNTRIES = tuple(FLAGS)

PLURALS = {"fish": "fish"}


def plural(noun: str) -> str:
    """The plural of a thing's name."""
    return PLURALS.get(noun, noun + "s")


def article(words: str) -> str:
    """`words` with the indefinite article before it."""
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


FOREIGN: dict[str, dict[str, tuple[str, ...]]] = {
    # language: things, colours ("of red colour"), scene phrases, each in the order of the English tables; openings
    "de": {
        "things": ("Becher", "Auto", "Haus", "Baum", "Katze", "Fisch", "Apfel", "Hut", "Stern", "Boot", "Schlüssel",
                   "Pilz", "Flasche", "Blume", "Regenschirm", "Glocke", "Banane", "Hase", "Birne", "Herz"),
        "colours": ("in Rot", "in Grün", "in Blau", "in Gelb", "in Orange", "in Lila", "in Rosa", "in Braun",
                    "in Schwarz", "in Weiß"),
        "scenes": ("vor einfarbigem Hintergrund", "im Wald", "auf dem Meer", "in der Wüste", "auf der Wiese",
                   "in der Stadt", "im Schnee", "in der Küche", "vor einer Mauer", "bei Sonnenuntergang"),
        "openings": ("Foto: ", "Ein Bild mit ", "Schönes Bild: ", ""),
    },
    "fr": {
        "things": ("tasse", "voiture", "maison", "arbre", "chat", "poisson", "pomme", "chapeau", "étoile", "bateau",
                   "clé", "champignon", "bouteille", "fleur", "parapluie", "cloche", "banane", "lapin", "poire",
                   "cœur"),
        "colours": ("de couleur rouge", "de couleur verte", "de couleur bleue", "de couleur jaune",
                    "de couleur orange", "de couleur violette", "de couleur rose", "de couleur brune",
                    "de couleur noire", "de couleur blanche"),
        "scenes": ("sur un fond uni", "dans la forêt", "en pleine mer", "dans le désert", "dans un pré",
                   "dans la ville", "dans la neige", "dans la cuisine", "devant un mur", "au coucher du soleil"),
        "openings": ("photo : ", "une image de ", "belle photo de ", ""),
    },
    "es": {
        "things": ("taza", "coche", "casa", "árbol", "gato", "pez", "manzana", "sombrero", "estrella", "barco",
                   "llave", "seta", "botella", "flor", "paraguas", "campana", "plátano", "conejo", "pera", "corazón"),
        "colours": ("de color rojo", "de color verde", "de color azul", "de color amarillo", "de color naranja",
                    "de color morado", "de color rosa", "de color marrón", "de color negro", "de color blanco"),
        "scenes": ("sobre un fondo liso", "en el bosque", "en el mar", "en el desierto", "en un prado",
                   "en la ciudad", "en la nieve", "en la cocina", "delante de un muro", "al atardecer"),
        "openings": ("foto de ", "una imagen de ", "bonita foto: ", ""),
    },
    "ru": {
        "things": ("кружка", "машина", "дом", "дерево", "кошка", "рыба", "яблоко", "шляпа", "звезда", "лодка", "ключ",
                   "гриб", "бутылка", "цветок", "зонт", "колокол", "банан", "кролик", "груша", "сердце"),
        "colours": ("красного цвета", "зелёного цвета", "синего цвета", "жёлтого цвета", "оранжевого цвета",
                    "фиолетового цвета", "розового цвета", "коричневого цвета", "чёрного цвета", "белого цвета"),
        "scenes": ("на гладком фоне", "в лесу", "в море", "в пустыне", "на лугу", "в городе", "в снегу", "на кухне",
                   "у кирпичной стены", "на закате"),
        "openings": ("фото: ", "картинка: ", "", ""),
    },
}  # fmt: skip
