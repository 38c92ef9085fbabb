"""Units of measure: how they are written, how they are said, and what they are worth.

One table serves the speller (`km/h` -> "kilometers per hour") and the converter. A value in a unit
is `value * factor + offset` in the base unit of its dimension. Factors are exact decimals where the
definition is.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from functools import cache


@dataclass(frozen=True, slots=True)
class Unit:
    """One unit. `symbols` are matched with their case, `names` (all spoken forms) without."""

    singular: str
    plural: str
    dimension: str
    factor: Decimal
    symbols: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    offset: Decimal = Decimal(0)

    def spoken(self, *, one: bool) -> str:
        return self.singular if one else self.plural

    @property
    def names(self) -> tuple[str, ...]:
        return (self.singular, self.plural, *self.aliases)


def _unit(
    names: str, dimension: str, factor: str, symbols: str = "", aliases: str = "", offset: str = "0"
) -> Unit:
    singular, _, plural = names.partition("/")
    top, _, bottom = factor.partition("/")
    return Unit(
        singular,
        plural or f"{singular}s",
        dimension,
        Decimal(top) / Decimal(bottom or "1"),
        tuple(symbols.split()),
        tuple(alias for alias in aliases.split(",") if alias),
        Decimal(offset.partition("/")[0]) / Decimal(offset.partition("/")[2] or "1"),
    )


UNITS: tuple[Unit, ...] = (
    _unit("kilometer", "length", "1000", "km", "kilometre,kilometres,k m"),
    _unit("meter", "length", "1", "m", "metre,metres"),
    _unit("centimeter", "length", "0.01", "cm", "centimetre,centimetres"),
    _unit("millimeter", "length", "0.001", "mm", "millimetre,millimetres"),
    _unit("micrometer", "length", "0.000001", "µm μm um", "micrometre,micrometres,micron,microns"),
    _unit("nanometer", "length", "0.000000001", "nm", "nanometre,nanometres"),
    _unit("mile", "length", "1609.344", "mi"),
    _unit("yard", "length", "0.9144", "yd yds"),
    _unit("foot/feet", "length", "0.3048", "ft"),
    _unit("inch/inches", "length", "0.0254"),
    _unit("nautical mile", "length", "1852", "nmi"),
    _unit("light year", "length", "9460730472580800", "ly"),
    _unit("ton", "mass", "1000", "t", "tonne,tonnes,metric ton,metric tons"),
    _unit("kilogram", "mass", "1", "kg kgs", "kilo,kilos,kilogramme,kilogrammes"),
    _unit("gram", "mass", "0.001", "g", "gramme,grammes"),
    _unit("milligram", "mass", "0.000001", "mg"),
    _unit("microgram", "mass", "0.000000001", "µg μg mcg"),
    _unit("pound", "mass", "0.45359237", "lb lbs"),
    _unit("ounce", "mass", "0.028349523125", "oz"),
    _unit("stone/stone", "mass", "6.35029318"),
    _unit("liter", "volume", "0.001", "l L", "litre,litres"),
    _unit("milliliter", "volume", "0.000001", "ml mL", "millilitre,millilitres"),
    _unit("centiliter", "volume", "0.00001", "cl cL", "centilitre,centilitres"),
    _unit("cubic meter", "volume", "1", "m³ m3", "cubic metre,cubic metres"),
    _unit("cubic centimeter", "volume", "0.000001", "cm³ cm3"),
    _unit("gallon", "volume", "0.003785411784", "gal"),
    _unit("quart", "volume", "0.000946352946", "qt"),
    _unit("pint", "volume", "0.000473176473", "pt"),
    _unit("cup", "volume", "0.0002365882365"),
    _unit("fluid ounce", "volume", "0.0000295735295625", "floz"),
    _unit("tablespoon", "volume", "0.00001478676478125", "tbsp"),
    _unit("teaspoon", "volume", "0.00000492892159375", "tsp"),
    _unit("square kilometer", "area", "1000000", "km² km2", "square kilometre,square kilometres"),
    _unit("square meter", "area", "1", "m² m2", "square metre,square metres"),
    _unit("square centimeter", "area", "0.0001", "cm² cm2"),
    _unit("square mile", "area", "2589988.110336", "mi²"),
    _unit("square foot/square feet", "area", "0.09290304", "ft² sqft"),
    _unit("hectare", "area", "10000", "ha"),
    _unit("acre", "area", "4046.8564224"),
    _unit("day", "time", "86400"),
    _unit("week", "time", "604800"),
    _unit("year", "time", "31557600", "yr yrs"),
    _unit("hour", "time", "3600", "h hr hrs"),
    _unit("minute", "time", "60", "min mins"),
    _unit("second", "time", "1", "s sec secs"),
    _unit("millisecond", "time", "0.001", "ms"),
    _unit("microsecond", "time", "0.000001", "µs μs"),
    _unit("nanosecond", "time", "0.000000001", "ns"),
    _unit(
        "kilometer per hour/kilometers per hour",
        "speed",
        "10/36",
        "km/h kmh kph",
        "kilometre per hour,kilometres per hour,kilometers an hour,kilometres an hour",
    ),
    _unit("mile per hour/miles per hour", "speed", "0.44704", "mph", "miles an hour"),
    _unit(
        "meter per second/meters per second",
        "speed",
        "1",
        "m/s",
        "metre per second,metres per second,meters a second,metres a second",
    ),
    _unit("meter per second squared/meters per second squared", "acceleration", "1", "m/s² m/s2"),
    _unit("knot", "speed", "1852/3600", "kn kt"),
    _unit(
        "degree Celsius/degrees Celsius",
        "temperature",
        "1",
        "°C ℃",
        "celsius,centigrade,degrees centigrade,degree centigrade",
        "273.15",
    ),
    _unit(
        "degree Fahrenheit/degrees Fahrenheit",
        "temperature",
        "5/9",
        "°F ℉",
        "fahrenheit",
        "229835/900",
    ),
    _unit("kelvin/kelvin", "temperature", "1", "K", "kelvins"),
    _unit("byte", "data", "1", "B"),
    _unit("kilobyte", "data", "1000", "kB KB"),
    _unit("megabyte", "data", "1000000", "MB", "meg,megs"),
    _unit("gigabyte", "data", "1000000000", "GB", "gig,gigs"),
    _unit("terabyte", "data", "1000000000000", "TB"),
    _unit("gibibyte", "data", "1073741824", "GiB"),
    _unit("mebibyte", "data", "1048576", "MiB"),
    _unit("kilobit per second/kilobits per second", "data rate", "1000", "kbit/s kbps kb/s"),
    _unit("megabit per second/megabits per second", "data rate", "1000000", "Mbit/s Mbps Mb/s"),
    _unit("gigabit per second/gigabits per second", "data rate", "1000000000", "Gbit/s Gbps Gb/s"),
    _unit("hertz/hertz", "frequency", "1", "Hz"),
    _unit("kilohertz/kilohertz", "frequency", "1000", "kHz"),
    _unit("megahertz/megahertz", "frequency", "1000000", "MHz"),
    _unit("gigahertz/gigahertz", "frequency", "1000000000", "GHz"),
    _unit("watt", "power", "1", "W"),
    _unit("kilowatt", "power", "1000", "kW"),
    _unit("megawatt", "power", "1000000", "MW"),
    _unit("gigawatt", "power", "1000000000", "GW"),
    _unit("horsepower/horsepower", "power", "745.69987158227022", "hp"),
    _unit("kilowatt hour", "energy", "3600000", "kWh"),
    _unit("joule", "energy", "1", "J"),
    _unit("kilojoule", "energy", "1000", "kJ"),
    _unit("calorie", "energy", "4.184", "cal"),
    _unit("kilocalorie", "energy", "4184", "kcal"),
    _unit("volt", "voltage", "1", "V"),
    _unit("kilovolt", "voltage", "1000", "kV"),
    _unit("millivolt", "voltage", "0.001", "mV"),
    _unit("ampere", "current", "1", "A", "amp,amps"),
    _unit("milliampere", "current", "0.001", "mA", "milliamp,milliamps"),
    _unit("pascal", "pressure", "1", "Pa"),
    _unit("hectopascal", "pressure", "100", "hPa"),
    _unit("kilopascal", "pressure", "1000", "kPa"),
    _unit("bar", "pressure", "100000"),
    _unit("pound per square inch/pounds per square inch", "pressure", "6894.757293168", "psi"),
    _unit("newton", "force", "1", "N"),
    _unit("decibel", "level", "1", "dB"),
    _unit("degree", "angle", "1", "°"),
)


@cache
def units_by_symbol() -> dict[str, Unit]:
    """Written symbols, case kept: `MW` and `mW` are not the same."""
    return {symbol: unit for unit in UNITS for symbol in unit.symbols}


@cache
def units_by_name() -> dict[str, Unit]:
    """Lower-case spoken names, plurals and British spellings included."""
    return {name.lower(): unit for unit in UNITS for name in unit.names}


def convert(value: Decimal, source: Unit, target: Unit) -> Decimal:
    """`value` of one unit in another; ValueError when they measure different things."""
    if source.dimension != target.dimension:
        raise ValueError(
            f"{source.plural} measure {source.dimension}, {target.plural} {target.dimension}"
        )
    return (value * source.factor + source.offset - target.offset) / target.factor
