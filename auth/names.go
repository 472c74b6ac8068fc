package auth

const maxScopes = 64

// jwtUserPrefix begins the users of JWTs and no others.
const jwtUserPrefix = "jwt:"
