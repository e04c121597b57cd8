package wire

import (
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
	"unicode/utf8"
)

// Encode gives a document's canonical JSON, defaults left out: the bytes that the Python side would write. Text that is not UTF-8 gets
// U+FFFD in place of what is not.
func Encode(document any) []byte {
	return appendValue(nil, reflect.ValueOf(document))
}

// field is one field of a struct: its name in JSON and the default, if it has one.
type field struct {
	name        string
	index       int
	optional    bool
	defaultText string
	object      bool
}

var (
	rawType     = reflect.TypeFor[json.RawMessage]()
	commandType = reflect.TypeFor[Command]()
)

var known sync.Map // reflect.Type -> []field

func fieldsOf(kind reflect.Type) []field {
	if found, ok := known.Load(kind); ok {
		return found.([]field)
	}
	fields := make([]field, 0, kind.NumField())
	for index := range kind.NumField() {
		each := kind.Field(index)
		text, optional := each.Tag.Lookup("default")
		fields = append(fields, field{each.Tag.Get("json"), index, optional, text, each.Tag.Get("kind") == "object"})
	}
	known.Store(kind, fields)
	return fields
}

// fresh gives a struct with its defaults.
func fresh[T any]() T {
	var value T
	setDefaults(reflect.ValueOf(&value).Elem())
	return value
}

func setDefaults(target reflect.Value) {
	for _, each := range fieldsOf(target.Type()) {
		if !each.optional {
			continue
		}
		place := target.Field(each.index)
		switch {
		case place.Kind() == reflect.Struct && place.Type() != commandType:
			setDefaults(place)
		case each.defaultText == "":
		case place.Kind() == reflect.String:
			place.SetString(each.defaultText)
		case place.Kind() == reflect.Bool:
			place.SetBool(each.defaultText == "true")
		case place.CanInt():
			number, _ := strconv.ParseInt(each.defaultText, 10, 64)
			place.SetInt(number)
		case place.CanFloat():
			number, _ := strconv.ParseFloat(each.defaultText, 64)
			place.SetFloat(number)
		}
	}
}

// isDefault tells whether a field holds what the reader assumes where it is missing.
func isDefault(each field, value reflect.Value) bool {
	switch value.Kind() {
	case reflect.Slice, reflect.Map:
		return value.Len() == 0 || each.object && string(value.Bytes()) == "{}"
	case reflect.Struct:
		if value.Type() == commandType {
			return value.Field(1).IsNil() && value.Field(0).Len() == 0
		}
		for _, inner := range fieldsOf(value.Type()) {
			if !inner.optional || !isDefault(inner, value.Field(inner.index)) {
				return false
			}
		}
		return true
	case reflect.Float64:
		number, _ := strconv.ParseFloat(orZero(each.defaultText), 64)
		return value.Float() == number
	case reflect.Int, reflect.Int64:
		number, _ := strconv.ParseInt(orZero(each.defaultText), 10, 64)
		return value.Int() == number
	case reflect.Bool:
		return value.Bool() == (each.defaultText == "true")
	case reflect.String:
		return value.String() == each.defaultText
	default:
		return value.IsZero()
	}
}

func orZero(text string) string {
	if text == "" {
		return "0"
	}
	return text
}

func appendValue(out []byte, value reflect.Value) []byte {
	switch value.Type() {
	case rawType:
		return append(out, value.Bytes()...)
	case commandType:
		if argv := value.Field(1); !argv.IsNil() {
			return appendValue(out, argv)
		}
		return appendString(out, value.Field(0).String())
	}
	switch value.Kind() {
	case reflect.Pointer:
		if value.IsNil() {
			return append(out, "null"...)
		}
		return appendValue(out, value.Elem())
	case reflect.Struct:
		return appendStruct(out, value)
	case reflect.Slice:
		out = append(out, '[')
		for index := range value.Len() {
			if index > 0 {
				out = append(out, ',')
			}
			out = appendValue(out, value.Index(index))
		}
		return append(out, ']')
	case reflect.Map:
		return appendMap(out, value)
	case reflect.String:
		return appendString(out, value.String())
	case reflect.Bool:
		return strconv.AppendBool(out, value.Bool())
	case reflect.Float64:
		return appendFloat(out, value.Float())
	case reflect.Int, reflect.Int64:
		return strconv.AppendInt(out, value.Int(), 10)
	}
	panic(fmt.Sprintf("wire: a %s has no JSON here", value.Type()))
}

func appendStruct(out []byte, value reflect.Value) []byte {
	out = append(out, '{')
	first := true
	for _, each := range fieldsOf(value.Type()) {
		held := value.Field(each.index)
		if each.optional && isDefault(each, held) {
			continue
		}
		if !first {
			out = append(out, ',')
		}
		first = false
		out = append(appendString(out, each.name), ':')
		out = appendValue(out, held)
	}
	return append(out, '}')
}

func appendMap(out []byte, value reflect.Value) []byte {
	names := make(map[string]reflect.Value, value.Len())
	for entry := value.MapRange(); entry.Next(); {
		names[entry.Key().String()] = entry.Value()
	}
	out = append(out, '{')
	for place, name := range slices.Sorted(maps.Keys(names)) {
		if place > 0 {
			out = append(out, ',')
		}
		out = append(appendString(out, name), ':')
		out = appendValue(out, names[name])
	}
	return append(out, '}')
}

// appendFloat writes the shortest digits that give the number back, as msgspec does: 1.0, 0.00001, 1e16, 1.5e-7.
func appendFloat(out []byte, number float64) []byte {
	if math.IsNaN(number) || math.IsInf(number, 0) {
		return append(out, "null"...)
	}
	text := strconv.FormatFloat(number, 'e', -1, 64)
	mantissa, exponent, _ := strings.Cut(text, "e")
	power, _ := strconv.Atoi(exponent)
	if number != 0 && (power < -5 || power >= 16) {
		return fmt.Appendf(out, "%se%d", mantissa, power)
	}
	text = strconv.FormatFloat(number, 'f', -1, 64)
	if !strings.Contains(text, ".") {
		text += ".0"
	}
	return append(out, text...)
}

const hexDigits = "0123456789abcdef"

func appendString(out []byte, text string) []byte {
	if !utf8.ValidString(text) {
		text = strings.ToValidUTF8(text, "\uFFFD")
	}
	out = append(out, '"')
	for index := range len(text) {
		switch letter := text[index]; letter {
		case '"', '\\':
			out = append(out, '\\', letter)
		case '\b':
			out = append(out, '\\', 'b')
		case '\f':
			out = append(out, '\\', 'f')
		case '\n':
			out = append(out, '\\', 'n')
		case '\r':
			out = append(out, '\\', 'r')
		case '\t':
			out = append(out, '\\', 't')
		default:
			if letter < 0x20 {
				out = append(out, '\\', 'u', '0', '0', hexDigits[letter>>4], hexDigits[letter&15])
			} else {
				out = append(out, letter)
			}
		}
	}
	return append(out, '"')
}
