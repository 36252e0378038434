// Build the MinIO that Rowdrop runs: the pinned module, with the edits of edits.go applied.
//
//	go run . build FOLDER   fetch, verify, edit and compile; FOLDER gets minio, LICENSE, NOTICE, CREDITS
//	go run . edit FOLDER    only apply the edits, to a writable copy of the module in FOLDER
package main

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"sort"
	"strings"
)

const (
	module    = "github.com/minio/minio"
	version   = "v0.0.0-20260212201848-7aac2a2c5b7c"
	moduleSum = "h1:/qdoYujxF5MBLDMVLeiYJ/7fBa1HikX39Dvzb9Ji8pA="

	// What the program says of itself.  Not the form of an official release: that would be untrue, and MinIO
	// would compare it with the releases that it finds online.
	releaseTag = "DEVELOPMENT.2026-02-12T20-18-48Z.rowdrop1"
	commit     = "7aac2a2c5b7c"
	// Printed at every start.
	license = "GNU AGPLv3 - https://www.gnu.org/licenses/agpl-3.0.html - modified by Rowdrop on 2026-11-27"
)

func main() {
	if len(os.Args) != 3 {
		fail(errors.New("usage: go run . build FOLDER | edit FOLDER"))
	}
	switch os.Args[1] {
	case "build":
		fail(build(os.Args[2]))
	case "edit":
		fail(applyEdits(os.Args[2]))
	default:
		fail(fmt.Errorf("unknown command %q", os.Args[1]))
	}
}

func fail(err error) {
	if err != nil {
		fmt.Fprintf(os.Stderr, "cannot build MinIO: %v\n", err)
		os.Exit(1)
	}
}

func build(target string) error {
	target, err := filepath.Abs(target)
	if err != nil {
		return err
	}
	work, err := os.MkdirTemp("", "minio-source-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	downloaded, err := download()
	if err != nil {
		return err
	}
	source := filepath.Join(work, "source")
	sum, err := copyAndHash(downloaded, source)
	if err != nil {
		return err
	}
	if sum != moduleSum {
		return fmt.Errorf("%s@%s is not the source that Rowdrop pins: expected %s, found %s;\n"+
			"the module proxy or the module cache delivers something else: use another GOPROXY", module, version, moduleSum, sum)
	}
	if err := applyEdits(source); err != nil {
		return err
	}
	return compile(source, target)
}

// download returns the folder of the module in the module cache.
func download() (string, error) {
	output, err := command("", "mod", "download", "-json", module+"@"+version).Output()
	var answer struct{ Dir, Error string }
	if parsed := json.Unmarshal(output, &answer); parsed != nil {
		return "", errors.Join(err, parsed)
	}
	if answer.Error != "" {
		return "", fmt.Errorf("cannot fetch %s@%s: %s", module, version, answer.Error)
	}
	return answer.Dir, err
}

// copyAndHash copies the module and returns the hash of what it copied, in the form of go.sum ("h1:").  The Go command
// checks the hash too, but its settings (GOSUMDB, GONOSUMDB, a cache of the user) can disable that.
func copyAndHash(from, to string) (string, error) {
	var lines []string
	err := filepath.WalkDir(from, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		if entry.IsDir() {
			return os.MkdirAll(filepath.Join(to, name), 0o755)
		}
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		lines = append(lines, module+"@"+version+"/"+filepath.ToSlash(name)+"\x00"+digest(content))
		return os.WriteFile(filepath.Join(to, name), content, 0o644)
	})
	if err != nil {
		return "", err
	}
	sort.Strings(lines)
	all := sha256.New()
	for _, line := range lines {
		name, sum, _ := strings.Cut(line, "\x00")
		fmt.Fprintf(all, "%s  %s\n", sum, name)
	}
	return "h1:" + base64.StdEncoding.EncodeToString(all.Sum(nil)), nil
}

// applyEdits changes the files below source.  Another version of a file stops it before the first change.
func applyEdits(source string) error {
	results := make(map[string][]byte, len(editedFiles))
	for _, file := range editedFiles {
		content, err := os.ReadFile(filepath.Join(source, file.name))
		if err != nil {
			return err
		}
		if found := digest(content); found != file.before {
			return fmt.Errorf("%s is not the file these edits were made for: expected sha256 %s, found %s;\n"+
				"review the edits before changing the version", file.name, file.before, found)
		}
		text := string(content)
		for _, change := range file.changes {
			if strings.Count(text, change.old) != 1 {
				return fmt.Errorf("%s does not contain this text exactly once:\n%s", file.name, change.old)
			}
			text = strings.Replace(text, change.old, change.new, 1)
		}
		if found := digest([]byte(text)); found != file.after {
			return fmt.Errorf("%s is edited to something unexpected: expected sha256 %s, found %s",
				file.name, file.after, found)
		}
		results[file.name] = []byte(text)
	}
	for name, content := range results {
		if err := os.WriteFile(filepath.Join(source, name), content, 0o644); err != nil {
			return err
		}
	}
	return nil
}

func compile(source, target string) error {
	if err := os.MkdirAll(target, 0o755); err != nil {
		return err
	}
	variables := module + "/cmd."
	linkerFlags := strings.Join([]string{
		"-s -w",
		"-X " + variables + "Version=" + releaseTag,
		"-X " + variables + "ReleaseTag=" + releaseTag,
		"-X " + variables + "CommitID=" + commit,
		"-X " + variables + "ShortCommitID=" + commit,
		"-X " + variables + "CopyrightYear=2026",
		"-X '" + variables + "MinioLicense=" + license + "'",
	}, " ")
	// -mod=readonly: the module's own go.sum pins every dependency by hash.
	goBuild := command(source, "build", "-v", "-trimpath", "-mod=readonly", "-buildvcs=false",
		"-ldflags", linkerFlags, "-o", filepath.Join(target, "minio"), ".")
	goBuild.Stdout = os.Stdout
	if err := goBuild.Run(); err != nil {
		return fmt.Errorf("go build: %w", err)
	}
	// The linker ignores a variable that does not exist.  A modified MinIO must say that it is one.
	said, err := exec.Command(filepath.Join(target, "minio"), "--version").Output()
	if err != nil {
		return fmt.Errorf("the MinIO just built does not run: %w", err)
	}
	if !strings.Contains(string(said), releaseTag) {
		return fmt.Errorf("the MinIO just built does not say that it is modified: %q", said)
	}
	for _, name := range []string{"LICENSE", "NOTICE", "CREDITS"} {
		content, err := os.ReadFile(filepath.Join(source, name))
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(target, name), content, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// command is the Go command without settings of the user that could change what is built.
func command(folder string, arguments ...string) *exec.Cmd {
	result := exec.Command("go", arguments...)
	result.Dir = folder
	result.Stderr = os.Stderr
	// -modcacherw: the folder of the module cache can be removed like any other.
	result.Env = append(os.Environ(), "GOFLAGS=-modcacherw", "GO111MODULE=on", "GOWORK=off", "CGO_ENABLED=0")
	return result
}

func digest(content []byte) string {
	sum := sha256.Sum256(content)
	return hex.EncodeToString(sum[:])
}
