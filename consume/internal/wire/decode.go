package wire

import (
	"bytes"
	"encoding/json"
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"unicode/utf8"
)

// encoding/json is not strict enough for the contract: it takes State for state, null for a number and a missing field for zero.
// The text is checked by it once; the reader below then walks over JSON that is known to be well-formed.

func checkJSON(data []byte, where string) error {
	if !utf8.Valid(data) {
		return &Damaged{Where: where, What: "expected a document of sparkles, found bytes that are not UTF-8"}
	}
	if err := json.Unmarshal(data, new(json.RawMessage)); err != nil {
		return &Damaged{Where: where, What: fmt.Sprintf("expected a document of sparkles, found something else: %v", err)}
	}
	return nil
}

// head reads the schema alone: what a newer document looks like otherwise is not known.
func head(data []byte, where string) (int, error) {
	if err := checkJSON(data, where); err != nil {
		return 0, err
	}
	reader := &reader{data: data}
	if reader.peek() != '{' {
		return 0, &Damaged{Where: where, What: fmt.Sprintf("expected an object, found %s", reader.found())}
	}
	schema := 0
	err := reader.object(func(name string) error {
		if name != "schema" {
			reader.skip()
			return nil
		}
		number, err := reader.integer()
		schema = int(number)
		return err
	})
	if err != nil {
		return 0, damaged(err, where, "$.schema")
	}
	return schema, nil
}

func decode[D any](data []byte, where string) (D, error) {
	var document D
	reader := &reader{data: data}
	if err := reader.value(reflect.ValueOf(&document).Elem()); err != nil {
		var none D
		return none, damaged(err, where, "")
	}
	return document, nil
}

func damaged(err error, where, path string) error {
	if wrong, ok := err.(*mismatch); ok {
		if path == "" {
			path = "$" + strings.Join(wrong.path, "")
		}
		return &Damaged{Where: where, Path: path, What: wrong.what}
	}
	return &Damaged{Where: where, Path: path, What: err.Error()}
}

// mismatch is a value that is not what the field takes. path grows from the inside out.
type mismatch struct {
	path []string
	what string
}

func (m *mismatch) Error() string { return m.what }

func (m *mismatch) under(step string) *mismatch {
	m.path = append([]string{step}, m.path...)
	return m
}

type reader struct {
	data []byte
	at   int
}

func (r *reader) peek() byte {
	for {
		switch letter := r.data[r.at]; letter {
		case ' ', '\t', '\n', '\r':
			r.at++
		default:
			return letter
		}
	}
}

// found names the kind of the next value for errors.
func (r *reader) found() string {
	switch letter := r.peek(); letter {
	case '{':
		return "an object"
	case '[':
		return "a list"
	case '"':
		return "a string"
	case 't', 'f':
		return "a boolean"
	case 'n':
		return "null"
	default:
		return "a number"
	}
}

func (r *reader) expected(what string) error {
	return &mismatch{what: fmt.Sprintf("expected %s, found %s", what, r.found())}
}

// skip passes over one value and returns its text.
func (r *reader) skip() []byte {
	r.peek()
	begin, depth := r.at, 0
	for {
		switch r.peek() {
		case '{', '[':
			depth++
			r.at++
		case '}', ']':
			depth--
			r.at++
		case '"':
			r.passString()
		case ',', ':':
			r.at++
		default:
			for r.at < len(r.data) && !strings.ContainsRune(" \t\n\r,:]}", rune(r.data[r.at])) {
				r.at++
			}
		}
		if depth == 0 {
			return r.data[begin:r.at]
		}
	}
}

func (r *reader) passString() []byte {
	begin := r.at
	for r.at++; r.data[r.at] != '"'; r.at++ {
		if r.data[r.at] == '\\' {
			r.at++
		}
	}
	r.at++
	return r.data[begin:r.at]
}

func (r *reader) text() (string, error) {
	if r.peek() != '"' {
		return "", r.expected("a string")
	}
	quoted := r.passString()
	if bytes.IndexByte(quoted, '\\') < 0 {
		return string(quoted[1 : len(quoted)-1]), nil
	}
	var text string
	if err := json.Unmarshal(quoted, &text); err != nil {
		return "", &mismatch{what: err.Error()}
	}
	return text, nil
}

func (r *reader) number() (string, error) {
	if letter := r.peek(); letter != '-' && (letter < '0' || letter > '9') {
		return "", r.expected("a number")
	}
	return string(r.skip()), nil
}

func (r *reader) integer() (int64, error) {
	text, err := r.number()
	if err != nil {
		return 0, err
	}
	number, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return 0, &mismatch{what: fmt.Sprintf("expected an integer of at most 64 bits, found %s", text)}
	}
	return number, nil
}

// object calls member for each name, with the reader before its value. A name that comes twice is refused.
func (r *reader) object(member func(name string) error) error {
	if r.peek() != '{' {
		return r.expected("an object")
	}
	r.at++
	seen := make(map[string]bool)
	for r.peek() != '}' {
		name, err := r.text()
		if err != nil {
			return err
		}
		if seen[name] {
			return &mismatch{what: fmt.Sprintf("the field `%s` comes twice", name)}
		}
		seen[name] = true
		r.peek()
		r.at++ // the colon
		if err := member(name); err != nil {
			return err
		}
		if r.peek() == ',' {
			r.at++
		}
	}
	r.at++
	return nil
}

func (r *reader) list(element func(index int) error) error {
	if r.peek() != '[' {
		return r.expected("a list")
	}
	r.at++
	for index := 0; r.peek() != ']'; index++ {
		if err := element(index); err != nil {
			if wrong, ok := err.(*mismatch); ok {
				return wrong.under(fmt.Sprintf("[%d]", index))
			}
			return err
		}
		if r.peek() == ',' {
			r.at++
		}
	}
	r.at++
	return nil
}

func (r *reader) value(target reflect.Value) error {
	switch target.Type() {
	case rawType:
		target.SetBytes(bytes.Clone(r.skip()))
		return nil
	case commandType:
		if r.peek() == '[' {
			target.Field(1).Set(reflect.MakeSlice(target.Field(1).Type(), 0, 4))
			return r.value(target.Field(1))
		}
		if r.peek() != '"' {
			return r.expected("a string or a list of strings")
		}
		return r.value(target.Field(0))
	}
	switch target.Kind() {
	case reflect.Pointer:
		if r.peek() == 'n' {
			r.skip()
			return nil
		}
		target.Set(reflect.New(target.Type().Elem()))
		return r.value(target.Elem())
	case reflect.Struct:
		return r.structure(target)
	case reflect.Slice:
		return r.list(func(int) error {
			element := reflect.New(target.Type().Elem()).Elem()
			err := r.value(element)
			target.Set(reflect.Append(target, element))
			return err
		})
	case reflect.Map:
		target.Set(reflect.MakeMap(target.Type()))
		return r.object(func(name string) error {
			element := reflect.New(target.Type().Elem()).Elem()
			if err := r.value(element); err != nil {
				return under(err, fmt.Sprintf("[%q]", name))
			}
			target.SetMapIndex(reflect.ValueOf(name), element)
			return nil
		})
	case reflect.Bool:
		if letter := r.peek(); letter != 't' && letter != 'f' {
			return r.expected("a boolean")
		}
		target.SetBool(r.skip()[0] == 't')
		return nil
	case reflect.Float64:
		text, err := r.number()
		if err != nil {
			return err
		}
		number, err := strconv.ParseFloat(text, 64)
		if err != nil {
			return &mismatch{what: fmt.Sprintf("expected a number, found %s", text)}
		}
		target.SetFloat(number)
		return nil
	case reflect.Int, reflect.Int64:
		number, err := r.integer()
		target.SetInt(number)
		return err
	case reflect.String:
		return r.word(target)
	}
	panic(fmt.Sprintf("wire: a %s is not read from JSON", target.Type()))
}

// word reads a text, or one of the words that its type knows.
func (r *reader) word(target reflect.Value) error {
	words, isWord := target.Interface().(interface{ known() bool })
	if _, nullable := words.(FailureClass); nullable && r.peek() == 'n' {
		r.skip()
		return nil
	}
	text, err := r.text()
	if err != nil {
		return err
	}
	target.SetString(text)
	if isWord && !target.Interface().(interface{ known() bool }).known() {
		return &mismatch{what: fmt.Sprintf("%q is not a %s that this version knows", text, target.Type().Name())}
	}
	return nil
}

func (r *reader) structure(target reflect.Value) error {
	setDefaults(target)
	fields := fieldsOf(target.Type())
	present := make([]bool, len(fields))
	err := r.object(func(name string) error {
		for place, each := range fields {
			if each.name != name {
				continue
			}
			present[place] = true
			if each.object && r.peek() != '{' {
				return under(r.expected("an object"), "."+name)
			}
			return under(r.value(target.Field(each.index)), "."+name)
		}
		return &mismatch{what: fmt.Sprintf("there is no field `%s`", name)}
	})
	if err != nil {
		return err
	}
	for place, each := range fields {
		if !each.optional && !present[place] {
			return &mismatch{what: fmt.Sprintf("the field `%s` is missing", each.name)}
		}
	}
	return nil
}

func under(err error, step string) error {
	if wrong, ok := err.(*mismatch); ok {
		return wrong.under(step)
	}
	return err
}
