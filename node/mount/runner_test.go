package mount

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
)

func TestSecretsDoNotPrint(t *testing.T) {
	const secret = "hunter2"
	cmd := Command{Name: "cryptsetup", Args: []string{"open"}, Stdin: []byte(secret)}
	enc := Encryption{Name: "luks-a", Key: Key(secret)}
	text := fmt.Sprintf("%v %+v %#v %s %x %q %d", enc, enc, enc, enc.Key, enc.Key, enc.Key, enc.Key) +
		fmt.Sprintf("%v %#v %s", cmd, cmd, cmd) + fmt.Sprintf("%v %+v", &enc, StageRequest{Encryption: &enc})
	encoded, err := json.Marshal(enc)
	if err != nil {
		t.Fatal(err)
	}
	text += string(encoded)
	for _, form := range []string{secret, fmt.Sprintf("%x", secret), fmt.Sprint([]byte(secret)), "aHVudGVyMg"} {
		if strings.Contains(text, form) {
			t.Errorf("%q is in %s", form, text)
		}
	}
}
