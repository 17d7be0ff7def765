package cert

import (
	"testing"
	"time"
)

// Whatever stands in the Secret: an error or a state that writes out and reads back.
func FuzzParse(f *testing.F) {
	s, err := fresh(time.Now(), []string{"lamina-controller"})
	if err != nil {
		f.Fatal(err)
	}
	data, err := s.data()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data[keyCA], data[keyCAKey], data[keyServing], data[keyServingKey])
	f.Add([]byte("-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n"), []byte{}, []byte{}, []byte{})
	f.Fuzz(func(t *testing.T, ca, caKey, serving, servingKey []byte) {
		s, err := parse(map[string][]byte{keyCA: ca, keyCAKey: caKey, keyServing: serving, keyServingKey: servingKey})
		if err != nil {
			return
		}
		data, err := s.data()
		if err != nil {
			t.Fatal(err)
		}
		again, err := parse(data)
		if err != nil {
			t.Fatal(err)
		}
		if again.bundle() != s.bundle() {
			t.Error("the bundle did not survive")
		}
	})
}
