"""The semidefinite cone inside the interior-point method: Nesterov-Todd scaling, steps and corrector.

With S = L1 L1', Z = L2 L2' and the singular value decomposition L2'L1 = U diag(lam) V', the scaling R = L1 V lam^-1/2
has R'Z R = R^-1 S R^-T = diag(lam), and W^2 maps Z to R R' Z R R'. Rows of V'L1' and of diag(lam) U' come from plane
rotations of the rows of L1' and L1'L2 (Hestenes' one-sided Jacobi method, doi 10.1137/0106005).
"""

from __future__ import annotations

import numpy as np

from cvxlayers.compiled.compiler import inner, lent
from cvxlayers.compiled.linear_algebra import jacobi_rotation

_ROOT = np.sqrt(2.0)
_SWEEPS = 30


@inner
def unpack(v, X):
    """The symmetric matrix whose scaled upper triangle, column by column, is v."""
    at = 0
    for j in range(X.shape[0]):
        for i in range(j):
            X[i, j] = X[j, i] = v[at + i] / _ROOT
        X[j, j] = v[at + j]
        at += j + 1


@inner
def pack(X, v):
    """The scaled upper triangle of (X + X')/2, column by column."""
    at = 0
    for j in range(X.shape[0]):
        for i in range(j):
            v[at + i] = (X[i, j] + X[j, i]) / _ROOT
        v[at + j] = X[j, j]
        at += j + 1


@inner
def multiply(A, B, C):
    """C = A B."""
    k = A.shape[0]
    for i in range(k):
        for j in range(k):
            C[i, j] = 0.0
        for p in range(k):
            a = A[i, p]
            for j in range(k):
                C[i, j] += a * B[p, j]


@inner
def multiply_transposed(A, B, C):
    """C = A B'."""
    k = A.shape[0]
    for i in range(k):
        for j in range(k):
            total = 0.0
            for p in range(k):
                total += A[i, p] * B[j, p]
            C[i, j] = total


@inner
def cholesky(X, L):
    """L with X = L L', lower triangular with zeros above; False if X is not positive definite."""
    k = X.shape[0]
    good = True
    for j in range(k):
        for i in range(j):
            L[i, j] = 0.0
        total = X[j, j]
        for p in range(j):
            total -= L[j, p] * L[j, p]
        good = good and total > 0.0
        L[j, j] = np.sqrt(total) if total > 0.0 else 1.0
        for i in range(j + 1, k):
            total = X[i, j]
            for p in range(j):
                total -= L[i, p] * L[j, p]
            L[i, j] = total / L[j, j]
    return good


@inner
def _turn(X, i, j, cosine, sine):
    """Turn rows i and j of X in their plane."""
    for p in range(X.shape[1]):
        first, second = X[i, p], X[j, p]
        X[i, p] = cosine * first - sine * second
        X[j, p] = sine * first + cosine * second


@inner
def _rotate(N, X):
    """Rotate rows of N until they are orthogonal, and rows of X along with them."""
    k = N.shape[0]
    for _ in range(_SWEEPS):
        turned = False
        for i in range(k - 1):
            for j in range(i + 1, k):
                a = b = c = 0.0
                for p in range(k):
                    a += N[i, p] * N[i, p]
                    b += N[j, p] * N[j, p]
                    c += N[i, p] * N[j, p]
                if abs(c) > 1e-15 * np.sqrt(a * b):
                    turned = turned or abs(c) > 1e-7 * np.sqrt(a * b)
                    _, cosine, sine = jacobi_rotation(a, b, c)
                    _turn(N, i, j, cosine, sine)
                    _turn(X, i, j, cosine, sine)
        if not turned:
            break


@lent
def scaling(s, z, own, lam, room):
    """R', R^-1 and R R' go to ``own`` (3, k, k); False unless both matrices are positive definite. ``room`` alike."""
    R, inverse, B = own[0], own[1], own[2]
    X, Y, M = room[0], room[1], room[2]
    k = R.shape[0]
    unpack(s, M)
    good = cholesky(M, X)  # L1
    unpack(z, M)
    good = cholesky(M, Y) and good  # L2
    if not good:
        return False
    for i in range(k):  # M = L1'L2, R = L1'
        for j in range(k):
            total = 0.0
            for p in range(max(i, j), k):
                total += X[p, i] * Y[p, j]
            M[i, j] = total
            R[i, j] = X[j, i]
    _rotate(M, R)
    for i in range(k):
        square = 0.0
        for p in range(k):
            square += M[i, p] * M[i, p]
        lam[i] = np.sqrt(square)
        root = np.sqrt(lam[i])
        good = good and lam[i] > 0.0
        for p in range(k):
            R[i, p] /= root
            M[i, p] /= lam[i] * root
    multiply_transposed(M, Y, inverse)  # lam^-1/2 U'L2'
    for i in range(k):
        for j in range(i + 1):
            total = 0.0
            for p in range(k):
                total += R[p, i] * R[p, j]
            B[i, j] = B[j, i] = total
    return good


@lent
def eigen(X, Q):
    """Rows of Q become the eigenvectors of a symmetric matrix, on whose diagonal the eigenvalues are left (Jacobi)."""
    k = X.shape[0]
    for i in range(k):
        for j in range(k):
            Q[i, j] = 1.0 if i == j else 0.0
    size = 0.0
    for i in range(k):
        for j in range(k):
            size = max(size, abs(X[i, j]))
    for _ in range(_SWEEPS):
        most = angle = 0.0
        for p in range(k - 1):
            for q in range(p + 1, k):
                value = X[p, q]
                if abs(value) <= 1e-17 * size:
                    continue
                _, cosine, sine = jacobi_rotation(X[p, p], X[q, q], value)
                most, angle = max(most, abs(value)), max(angle, abs(sine))
                _turn(X, p, q, cosine, sine)
                _turn(Q, p, q, cosine, sine)
                for i in range(k):
                    a, b = X[i, p], X[i, q]
                    X[i, p] = cosine * a - sine * b
                    X[i, q] = sine * a + cosine * b
        # What is left is of this size: between eigenvalues that are close together the angles stay large.
        if not most * angle > 1e-15 * size:
            break


@lent
def split(u, z, s, room):
    """z and s become the positive and the negative part of u, all svec; the least and the largest |eigenvalue|."""
    X, Q, Y = room[0], room[1], room[2]
    k = X.shape[0]
    unpack(u, X)
    eigen(X, Q)
    least, most = np.inf, 0.0
    for i in range(k):
        least, most = min(least, abs(X[i, i])), max(most, abs(X[i, i]))
    _part(X, Q, 1.0, Y)
    pack(Y, z)
    _part(X, Q, -1.0, Y)
    pack(Y, s)
    return least, most


@inner
def add_projection(X, weight, q):
    """X += weight q q'."""
    for i in range(q.size):
        factor = weight * q[i]
        for j in range(q.size):
            X[i, j] += factor * q[j]


@inner
def _part(X, Q, sign, Y):
    """Y = sum of max(sign lam, 0) q q' over the eigenvalues on X's diagonal and the rows q of Q."""
    k = X.shape[0]
    for i in range(k):
        for j in range(k):
            Y[i, j] = 0.0
    for p in range(k):
        value = sign * X[p, p]
        if value > 0.0:
            add_projection(Y, value, Q[p])


@inner
def congruence(A, v, out, X, Y):
    """svec(A V A') for v = svec(V); v may be out."""
    unpack(v, X)
    multiply(A, X, Y)
    multiply_transposed(Y, A, X)
    pack(X, out)


@inner
def congruence_transposed(A, v, out, X, Y):
    """svec(A'V A) for v = svec(V); v may be out."""
    k = A.shape[0]
    unpack(v, X)
    multiply(X, A, Y)
    for i in range(k):
        for j in range(k):
            X[i, j] = 0.0
    for p in range(k):
        for i in range(k):
            a = A[p, i]
            for j in range(k):
                X[i, j] += a * Y[p, j]
    pack(X, out)


@lent
def least(X, d, e):
    """A lower bound within 1e-3 of the least eigenvalue of a symmetric matrix, which is destroyed.

    ``d`` and ``e`` have room for its order.

    Householder's tridiagonal form, then bisection by Sturm sequences from Gershgorin's bounds (Golub and Van Loan,
    "Matrix Computations", 8.3 and 8.4).
    """
    k = X.shape[0]
    if k == 1:
        return X[0, 0]
    for j in range(k - 2):
        square = 0.0
        for i in range(j + 2, k):
            square += X[i, j] * X[i, j]
        d[j] = X[j, j]
        first = X[j + 1, j]
        if square == 0.0:
            e[j] = first
            continue
        length = np.sqrt(first * first + square)
        alpha = -length if first > 0.0 else length
        e[j] = alpha
        head = first - alpha
        X[j + 1, j] = head
        beta = 2.0 / (head * head + square)
        total = 0.0
        for i in range(j + 1, k):  # p = beta X v, held in row j
            value = 0.0
            for p in range(j + 1, i + 1):
                value += X[i, p] * X[p, j]
            for p in range(i + 1, k):
                value += X[p, i] * X[p, j]
            X[j, i] = beta * value
            total += X[j, i] * X[i, j]
        half = 0.5 * beta * total
        for i in range(j + 1, k):
            X[j, i] -= half * X[i, j]
        for i in range(j + 1, k):
            for p in range(j + 1, i + 1):
                X[i, p] -= X[i, j] * X[j, p] + X[j, i] * X[p, j]
    d[k - 2], d[k - 1], e[k - 2] = X[k - 2, k - 2], X[k - 1, k - 1], X[k - 1, k - 2]
    low, high, size = np.inf, np.inf, 0.0
    for i in range(k):
        radius = (abs(e[i - 1]) if i > 0 else 0.0) + (abs(e[i]) if i < k - 1 else 0.0)
        low, high = min(low, d[i] - radius), min(high, d[i])
        size = max(size, abs(d[i]) + radius)
    tiny = 1e-300 + 1e-16 * size
    for _ in range(60):
        if not high - low > 1e-3 * max(abs(low), abs(high)) + tiny:
            break
        middle = 0.5 * (low + high)
        pivot, below = d[0] - middle, False
        if pivot < 0.0:
            below = True
        else:
            for i in range(1, k):
                if pivot < tiny:
                    pivot = tiny
                pivot = d[i] - middle - e[i - 1] * e[i - 1] / pivot
                if pivot < 0.0:
                    below = True
                    break
        if below:
            high = middle
        else:
            low = middle
    return low
