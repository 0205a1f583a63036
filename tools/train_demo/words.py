"""Pools of words. None is a real person's data."""

from .problem import Draw

SYLLABLES = [c + v for c in "bcdfghjklmnprstvwz" for v in "aeiou"]


def proper_name(draw: Draw) -> str:
    """Return a name of syllables, so that copying is learnt apart from the words."""
    made = "".join(draw.one(SYLLABLES) for _ in range(draw.between(1, 3)))
    return (made + draw.one("nrslt") if draw.chance(0.6) else made).capitalize()


NAMES = """Ann Bob Cora Dan Eve Finn Gina Hugo Ida Jack Kim Leo Mia Noah Olga Paul Quinn Rosa Sam
Tina Uwe Vera Will Zoe Alice Sarah""".split()
CITIES = """Paris Rome London Berlin Madrid Vienna Oslo Athens Lisbon Dublin Prague Tokyo Cairo Lima
Delhi Moscow Warsaw Bern Ottawa Havana Boston Chicago Munich Milan Zurich""".split()
FOODS = "tea coffee bread cheese rice soup pizza apples pears plums honey fish cake salad".split()
COLOURS = "red blue green black white yellow brown grey".split()
OBJECTS = "car bike house hat bag cup boat lamp chair coat".split()
JOBS = "baker teacher doctor pilot farmer painter writer singer nurse cook".split()
PETS = "cat dog horse bird fish rabbit".split()
COUNTED = "apples books coins stamps cards eggs pens balls nuts cups".split()
WEATHER = "sunny cloudy rainy windy snowy foggy".split()
DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
MONTHS = """January February March April May June July August September October November
December""".split()
CAPITALS = {
    "France": "Paris",
    "Italy": "Rome",
    "England": "London",
    "Germany": "Berlin",
    "Spain": "Madrid",
    "Austria": "Vienna",
    "Norway": "Oslo",
    "Greece": "Athens",
    "Portugal": "Lisbon",
    "Ireland": "Dublin",
    "Japan": "Tokyo",
    "Egypt": "Cairo",
    "Peru": "Lima",
    "India": "Delhi",
    "Russia": "Moscow",
    "Poland": "Warsaw",
    "Canada": "Ottawa",
    "Cuba": "Havana",
}
FACTS = {
    "What colour is the sky?": ("The sky is blue.", "blue"),
    "What colour is snow?": ("Snow is white.", "white"),
    "What colour is grass?": ("Grass is green.", "green"),
    "How many legs has a spider?": ("A spider has 8 legs.", "8"),
    "How many legs has a dog?": ("A dog has 4 legs.", "4"),
    "How many days has a week?": ("A week has 7 days.", "7"),
    "How many months has a year?": ("A year has 12 months.", "12"),
    "How many hours has a day?": ("A day has 24 hours.", "24"),
    "What does a cow say?": ("A cow says moo.", "moo"),
    "What does a cat say?": ("A cat says meow.", "meow"),
    "What does a dog say?": ("A dog says woof.", "woof"),
    "What is the opposite of big?": ("The opposite of big is small.", "small"),
    "What is the opposite of hot?": ("The opposite of hot is cold.", "cold"),
    "What is the opposite of day?": ("The opposite of day is night.", "night"),
    "What is water made of?": ("Water is made of hydrogen and oxygen.", "hydrogen and oxygen"),
    "Which planet do we live on?": ("We live on Earth.", "Earth"),
}
# Words to spell and to count letters in; the tests hold whole words out.
SPELT = """strawberry banana apple orange lemon cherry melon grape peach plum tomato potato carrot
onion pepper garlic bread butter cheese sugar coffee water river ocean island mountain valley forest
flower garden window kitchen table chair pillow blanket mirror carpet letter paper pencil school
teacher student lesson number music piano guitar violin trumpet dancer singer painter doctor nurse
farmer driver pilot sailor soldier castle bridge tower church market street village city country
planet comet rocket engine wheel hammer ladder bucket basket bottle pocket button zipper jacket
sweater summer winter spring autumn monday sunday morning evening midnight yellow purple silver
golden little bigger happy hungry thirsty sleepy quiet clever gentle honest simple rabbit kitten
puppy horse donkey camel tiger lion zebra monkey parrot penguin dolphin turtle spider beetle
butterfly mosquito committee mississippi tennessee balloon bookkeeper""".split()
