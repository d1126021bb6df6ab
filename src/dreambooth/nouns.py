"""What a subject may be: the class nouns that are tried when the user gives none.

Coarse nouns, as DreamBench has them: "dog" for every breed, for the model's prior of a dog is what DreamBooth
builds on (paper, section 3.1), and a rarer word has a weaker one. The live ones are those that `subject.is_live`
calls live.
"""

from __future__ import annotations

_LIVE = """
    dog, cat, rabbit, hamster, horse, pony, cow, pig, goat, sheep, deer, fox, wolf, bear, panda, koala, lion, tiger,
    elephant, zebra, monkey, squirrel, hedgehog, ferret, bird, parrot, owl, duck, chicken, pigeon, penguin, fish,
    goldfish, shark, dolphin, whale, turtle, tortoise, lizard, snake, frog, person, man, woman, boy, girl, baby
"""
_TOYS = """
    toy, stuffed animal, doll, action figure, figurine, toy car, toy train, toy robot, building blocks, puzzle, kite,
    ball, yo-yo, puppet, spinning top, rocking horse, dollhouse, board game, dice, playing cards, game controller,
    balloon, rubber duck, cartoon, statue, sculpture, mask, puppet theatre, snow globe, music box, piggy bank
"""
_WORN = """
    backpack, handbag, purse, suitcase, briefcase, wallet, belt, hat, cap, helmet, crown, scarf, glove, sock, shoe,
    sneaker, boot, sandal, slipper, high heel, shirt, sweater, jacket, coat, dress, skirt, trousers, shorts, tie,
    glasses, sunglasses, watch, ring, necklace, bracelet, earring, umbrella, fan, brooch, costume, apron, swimsuit
"""
_KITCHEN = """
    bowl, cup, mug, teacup, teapot, kettle, coffee maker, glass, wine glass, bottle, water bottle, can, jar, jug, vase,
    plate, tray, basket, pot, pan, knife, fork, spoon, chopsticks, cutting board, rolling pin, whisk, grater, blender,
    toaster, microwave, oven, refrigerator, scale, salt shaker, thermos, lunch box, corkscrew, candle, candlestick
"""
_HOUSE = """
    chair, armchair, stool, bench, sofa, bed, table, desk, shelf, bookcase, cabinet, wardrobe, chest, drawer, lamp,
    lantern, chandelier, clock, alarm clock, mirror, picture frame, painting, pillow, blanket, rug, curtain, door,
    window, fireplace, broom, bucket, vacuum cleaner, iron, washing machine, bathtub, sink, toilet, soap, towel,
    toothbrush, hairbrush, comb, perfume bottle, lipstick, box, gift, trash can, key, lock, bell, flower pot
"""
_TOOLS = """
    hammer, screwdriver, wrench, pliers, saw, axe, drill, shovel, rake, ladder, toolbox, tape measure, scissors,
    needle, rope, wheel, wheelbarrow, lawn mower, watering can, flashlight, compass, telescope, binoculars, microscope,
    magnifying glass, anchor, sword, shield
"""
_DESK = """
    book, notebook, pen, pencil, paintbrush, eraser, ruler, stapler, globe, map, envelope, newspaper, calculator,
    computer, laptop, keyboard, computer mouse, monitor, printer, tablet, phone, telephone, camera, television, radio,
    speaker, headphones, microphone, record player, record, cassette, typewriter, robot, drone, remote control,
    projector
"""
_MUSIC = """
    guitar, violin, cello, piano, drum, trumpet, saxophone, flute, harp, accordion, harmonica, banjo, ukulele
"""
_SPORT = """
    bicycle, tricycle, skateboard, scooter, surfboard, ski, snowboard, sled, ice skate, roller skate, tennis racket,
    baseball bat, baseball glove, golf club, football, basketball, soccer ball, bowling ball, dumbbell, boxing glove,
    tent, sleeping bag, fishing rod, trophy, medal, paddle
"""
_VEHICLES = """
    car, truck, bus, van, taxi, fire engine, ambulance, tractor, motorcycle, train, tram, boat, ship, sailboat, canoe,
    submarine, airplane, helicopter, hot air balloon, rocket, spaceship, excavator, crane, caravan, carriage, stroller
"""
_PLACES = """
    house, cottage, castle, tower, church, temple, lighthouse, windmill, bridge, barn, skyscraper, fountain, birdhouse,
    doghouse, greenhouse, mailbox, street lamp, traffic light, phone booth, monument, gate, fence
"""
_PLANTS_AND_FOOD = """
    plant, tree, bonsai, cactus, flower, rose, sunflower, tulip, orchid, mushroom, leaf, pine cone, shell, rock,
    crystal, apple, banana, orange, lemon, strawberry, pineapple, watermelon, pear, grapes, tomato, carrot, pumpkin,
    corn, potato, pepper, avocado, egg, bread, croissant, cake, cupcake, pie, cookie, donut, pizza, hamburger,
    sandwich, hot dog, sushi, ice cream, chocolate, candy, cheese, salad, soup, coffee, cocktail
"""


def _listed(*groups: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(" ".join(noun.split()) for group in groups for noun in group.split(",")))


LIVE = _listed(_LIVE)
EVERYDAY = _listed(
    _LIVE, _TOYS, _WORN, _KITCHEN, _HOUSE, _TOOLS, _DESK, _MUSIC, _SPORT, _VEHICLES, _PLACES, _PLANTS_AND_FOOD
)
# The classes of the embedded world; its models know no others.
TOYBOX = _listed(
    """
    backpack, stuffed animal, bowl, can, candle, cat, clock, sneaker, dog, toy, boot, glasses, cartoon, teapot, vase,
    duck, car, robot, chair, house, fish, mug, lamp
    """
)
