package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"math/big"
	"net/url"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"github.com/spiffe/go-spiffe/v2/bundle/spiffebundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
)

// authority signs for one trust domain, from memory.
type authority struct {
	lock    sync.Mutex
	td      spiffeid.TrustDomain
	bundle  *spiffebundle.Bundle
	active  signers
	newest  signers
	version int
}

// signers are an X.509 and a JWT authority with their keys.
type signers struct {
	ca     *x509.Certificate
	caKey  *ecdsa.PrivateKey
	jwtID  string
	jwtKey *ecdsa.PrivateKey
}

func newAuthority(td spiffeid.TrustDomain, hint time.Duration) (*authority, error) {
	a := &authority{td: td, bundle: spiffebundle.New(td)}
	a.bundle.SetRefreshHint(hint)
	a.bundle.SetSequenceNumber(0)
	if err := a.prepare(); err != nil {
		return nil, err
	}
	a.activate()
	return a, nil
}

// GetBundleForTrustDomain makes the authority a spiffebundle.Source.
func (a *authority) GetBundleForTrustDomain(td spiffeid.TrustDomain) (*spiffebundle.Bundle, error) {
	if td != a.td {
		return nil, fmt.Errorf("no bundle for %s", td)
	}
	return a.current(), nil
}

func (a *authority) current() *spiffebundle.Bundle {
	a.lock.Lock()
	defer a.lock.Unlock()
	return a.bundle.Clone()
}

func (a *authority) describe() (object, error) {
	bundle := a.current()
	encoded, err := bundle.Marshal()
	if err != nil {
		return nil, err
	}
	body := describe(bundle)
	body["json"] = string(encoded)
	return body, nil
}

func serial() (*big.Int, error) { return rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127)) }

// prepare adds a new X.509 and JWT authority to the bundle, which do not sign yet.
func (a *authority) prepare() error {
	caKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	jwtKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	number, err := serial()
	if err != nil {
		return err
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber:          number,
		Subject:               pkix.Name{Organization: []string{"Go peer"}, SerialNumber: number.String()},
		URIs:                  []*url.URL{a.td.ID().URL()},
		NotBefore:             now.Add(-10 * time.Second),
		NotAfter:              now.Add(24 * time.Hour),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, caKey.Public(), caKey)
	if err != nil {
		return err
	}
	ca, err := x509.ParseCertificate(der)
	if err != nil {
		return err
	}
	a.lock.Lock()
	defer a.lock.Unlock()
	a.version++
	a.newest = signers{ca: ca, caKey: caKey, jwtKey: jwtKey, jwtID: fmt.Sprintf("go-peer-%d", a.version)}
	a.bundle.AddX509Authority(ca)
	if err := a.bundle.AddJWTAuthority(a.newest.jwtID, jwtKey.Public()); err != nil {
		return err
	}
	a.advance()
	return nil
}

// activate signs with the newest authorities from now on.
func (a *authority) activate() {
	a.lock.Lock()
	defer a.lock.Unlock()
	a.active = a.newest
}

// dropOld leaves only the authorities that sign now.
func (a *authority) dropOld() {
	a.lock.Lock()
	defer a.lock.Unlock()
	a.bundle.SetX509Authorities([]*x509.Certificate{a.active.ca})
	for kid := range a.bundle.JWTAuthorities() {
		if kid != a.active.jwtID {
			a.bundle.RemoveJWTAuthority(kid)
		}
	}
	a.advance()
}

func (a *authority) setSequence(number uint64) {
	a.lock.Lock()
	defer a.lock.Unlock()
	a.bundle.SetSequenceNumber(number)
}

func (a *authority) advance() {
	sequence, _ := a.bundle.SequenceNumber()
	a.bundle.SetSequenceNumber(sequence + 1)
}

func (a *authority) mintX509(id spiffeid.ID) (*x509svid.SVID, error) {
	a.lock.Lock()
	defer a.lock.Unlock()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	number, err := serial()
	if err != nil {
		return nil, err
	}
	now := time.Now()
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber:          number,
		Subject:               pkix.Name{Organization: []string{"Go peer"}},
		URIs:                  []*url.URL{id.URL()},
		NotBefore:             now.Add(-10 * time.Second),
		NotAfter:              now.Add(time.Hour),
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		BasicConstraintsValid: true,
	}, a.active.ca, key.Public(), a.active.caKey)
	if err != nil {
		return nil, err
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	return &x509svid.SVID{ID: id, Certificates: []*x509.Certificate{leaf}, PrivateKey: key}, nil
}

func (a *authority) mintJWT(id spiffeid.ID, audience string) (string, error) {
	a.lock.Lock()
	defer a.lock.Unlock()
	signer, err := jose.NewSigner(jose.SigningKey{
		Algorithm: jose.ES256,
		Key:       jose.JSONWebKey{Key: a.active.jwtKey, KeyID: a.active.jwtID},
	}, new(jose.SignerOptions).WithType("JWT"))
	if err != nil {
		return "", err
	}
	now := time.Now()
	return jwt.Signed(signer).Claims(jwt.Claims{
		Subject:  id.String(),
		Audience: jwt.Audience{audience},
		IssuedAt: jwt.NewNumericDate(now),
		Expiry:   jwt.NewNumericDate(now.Add(5 * time.Minute)),
	}).Serialize()
}

// authorityEndpoint serves TLS with an X509-SVID minted from whatever signs at the moment.
type authorityEndpoint struct {
	authority *authority
	id        spiffeid.ID
}

// GetX509SVID makes it an x509svid.Source.
func (e authorityEndpoint) GetX509SVID() (*x509svid.SVID, error) { return e.authority.mintX509(e.id) }
