// Exact one-dimensional total variation and isotonic regression, one row to a warp: the algorithms of
// cvxlayers/compiled/taut_string.py and isotonic.py, which say how they work. The row lies in shared memory; all lanes
// load and store it, one lane walks along it, since each step depends on the one before.

struct Chain {
    const double* x;    // (rows, n)
    const double* w;    // rows of edges or of samples
    double* y;          // (rows, n)
    int* unfinished;    // (rows): 1 where the direct pass gave up
    long long rows, n, w_row, w_step;  // strides of w: 0 where one is shared
};

extern "C" __global__ void direct(const Chain c) {
    extern __shared__ double row[];
    const long long i = blockIdx.x;
    const int n = (int)c.n, last = n - 1;
    const double* w = c.w + i * c.w_row;
    for (int k = threadIdx.x; k < n; k += blockDim.x) row[k] = c.x[i * n + k];
    __syncwarp();
    int finished = 1;
    if (threadIdx.x == 0) {
        int k = 0, start = 0, touches_low = 0, touches_high = 0;
        long long spent = -(n / 4) - 64;
        double width = n == 1 ? 0.0 : w[0];
        double low = row[0] - width, high = row[0] + width, above = width, below = -width;
        while (k < last) {
            ++k;
            width = k == last ? 0.0 : w[k * c.w_step];
            above += row[k] - low;
            below += row[k] - high;
            if (above < -width || below > width) {
                const bool down = above < -width;
                const int end = down ? touches_low : touches_high;
                const double value = down ? low : high;
                for (int j = start; j <= end; ++j) row[j] = value;
                spent += k - end;
                if (spent > 8LL * end) { finished = 0; break; }
                const double before = (down ? 1.0 : -1.0) * w[end * c.w_step];
                k = start = touches_low = touches_high = end + 1;
                width = k == last ? 0.0 : w[k * c.w_step];
                low = row[k] + before - width;
                high = row[k] + before + width;
                above = width;
                below = -width;
            } else {
                const double length = k - start + 1;
                if (above >= width) { low += (above - width) / length; above = width; touches_low = k; }
                if (below <= -width) { high += (below + width) / length; below = -width; touches_high = k; }
            }
        }
        if (finished) for (int j = start; j < n; ++j) row[j] = low;
        c.unfinished[i] = !finished;
    }
    finished = __shfl_sync(0xffffffffu, finished, 0);
    __syncwarp();
    if (finished) for (int k = threadIdx.x; k < n; k += blockDim.x) c.y[i * n + k] = row[k];
}

extern "C" __global__ void hulls(const Chain c) {
    extern __shared__ double row[];
    const long long i = blockIdx.x;
    if (!c.unfinished[i]) return;
    const int n = (int)c.n;
    const double* w = c.w + i * c.w_row;
    double *upper = row + n, *lower = upper + n + 1;           // sums of the pieces
    int *upper_length = (int*)(lower + n + 1), *lower_length = upper_length + n + 1;
    for (int k = threadIdx.x; k < n; k += blockDim.x) row[k] = c.x[i * n + k];
    __syncwarp();
    if (threadIdx.x == 0) {
        int uf = 0, ul = -1, lf = 0, ll = -1, position = 0;
        double before = 0.0;
        for (int k = 0; k < n; ++k) {
            const double after = k == n - 1 ? 0.0 : w[k * c.w_step];
            double value = row[k] + (after - before);
            int length = 1;
            while (ul >= uf && value * upper_length[ul] <= upper[ul] * length) {
                value += upper[ul];
                length += upper_length[ul--];
            }
            upper[++ul] = value;
            upper_length[ul] = length;
            value = row[k] - (after - before);
            length = 1;
            while (ll >= lf && value * lower_length[ll] >= lower[ll] * length) {
                value += lower[ll];
                length += lower_length[ll--];
            }
            lower[++ll] = value;
            lower_length[ll] = length;
            before = after;
            while ((ul == uf || ll == lf) && ul >= uf) {
                const double high = upper[uf], low = lower[lf];
                const int high_length = upper_length[uf], low_length = lower_length[lf];
                if (!(low * high_length > high * low_length)) break;
                if (high_length < low_length) {
                    value = high; length = high_length; ++uf;
                    lower[lf] -= value; lower_length[lf] -= length;
                } else if (low_length < high_length) {
                    value = low; length = low_length; ++lf;
                    upper[uf] -= value; upper_length[uf] -= length;
                } else {
                    value = 0.5 * (high + low); length = high_length; ++uf; ++lf;
                }
                value /= length;
                for (int j = 0; j < length; ++j) row[position++] = value;
            }
        }
        if (position < n) {
            double total = 0.0;
            for (int k = uf; k <= ul; ++k) total += upper[k];
            total /= n - position;
            while (position < n) row[position++] = total;
        }
    }
    __syncwarp();
    for (int k = threadIdx.x; k < n; k += blockDim.x) c.y[i * n + k] = row[k];
}

extern "C" __global__ void pooling(const Chain c) {
    extern __shared__ double row[];
    const long long i = blockIdx.x;
    const int n = (int)c.n;
    const double* w = c.w + i * c.w_row;
    double *sums = row + n, *weights = sums + n;
    int* lengths = (int*)(weights + n);
    for (int k = threadIdx.x; k < n; k += blockDim.x) row[k] = c.x[i * n + k];
    __syncwarp();
    if (threadIdx.x == 0) {
        int last = -1;
        for (int k = 0; k < n; ++k) {
            double weight = w[k * c.w_step], value = weight * row[k];
            int length = 1;
            while (last >= 0 && value * weights[last] <= sums[last] * weight) {
                value += sums[last];
                weight += weights[last];
                length += lengths[last--];
            }
            sums[++last] = value;
            weights[last] = weight;
            lengths[last] = length;
        }
        int position = 0;
        for (int k = 0; k <= last; ++k) {
            const double mean = sums[k] / weights[k];
            for (int j = 0; j < lengths[k]; ++j) row[position++] = mean;
        }
    }
    __syncwarp();
    for (int k = threadIdx.x; k < n; k += blockDim.x) c.y[i * n + k] = row[k];
}
