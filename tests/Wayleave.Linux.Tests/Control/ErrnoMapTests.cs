using System.Net.Sockets;
using Wayleave.Core;
using Wayleave.Host;
using Xunit;

namespace Wayleave.Linux.Tests.Control;

public class ErrnoMapTests
{
    [Fact]
    public void Every_number_has_a_sentence_of_its_own()
    {
        Assert.All(Enum.GetValues<Errno>(),
            e => Assert.DoesNotContain("error ", ErrnoMap.Describe(e), StringComparison.Ordinal));
        Assert.Equal("error 4000", ErrnoMap.Describe((Errno)4000));
    }

    [Fact]
    public void A_failure_names_operation_reason_and_remedy_and_keeps_the_number()
    {
        WayleaveException e = ErrnoMap.ToException(Errno.ENOSPC, "put gpu0/a", "raise --vram");
        Assert.Equal("put gpu0/a: no space left; raise --vram", e.Message);
        Assert.Equal((int)Errno.ENOSPC, e.HResult);
        Assert.Throws<WayleaveException>(() => Errno.EIO.ThrowIfFailed("x"));
        Errno.Success.ThrowIfFailed("x");
    }

    [Fact]
    public void What_an_adapter_of_Linux_says_about_a_failure_is_kept()
    {
        LinuxException failure = new("bind", "127.0.0.2:4791", Errno.EADDRINUSE, "use another port");
        WayleaveException e = ErrnoMap.ToException(failure, "start port mlx0");
        Assert.Equal(
            "start port mlx0: bind 127.0.0.2:4791: Address already in use (EADDRINUSE); use another port", e.Message);
        Assert.Equal((int)Errno.EADDRINUSE, e.HResult);
    }

    [Fact]
    public void The_kernels_number_survives_the_runtimes_exception()
    {
        Assert.Equal(Errno.ECONNREFUSED, ErrnoMap.ToErrno(new SocketException((int)SocketError.ConnectionRefused)));
        Assert.Equal(Errno.EADDRINUSE,
            ErrnoMap.ToErrno(new IOException("x", new SocketException((int)SocketError.AddressAlreadyInUse))));
        Exception full = Assert.Throws<IOException>(() => File.WriteAllText("/dev/full", "x"));
        Assert.Equal(Errno.ENOSPC, ErrnoMap.ToErrno(full));
        Assert.Equal(Errno.ENOENT,
            ErrnoMap.ToErrno(Assert.Throws<FileNotFoundException>(() => File.ReadAllText("/nonexistent"))));
    }
}
