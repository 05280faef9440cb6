using Wayleave.Lab.Guests;
using Wayleave.Lab.Rdma;
using Wayleave.Lab.Tcp;

namespace Wayleave.Lab;

/// <summary>The programs that scripts of tests run, on either side: <c>$LAB NAME ARGUMENT...</c></summary>
internal static class TestPrograms
{
    private static readonly Dictionary<string, Func<string[], int>> s_programs = new()
    {
        ["boot"] = BootReport.Run,
        ["devmem-refusals"] = DevmemRefusals.Run,
        ["dmabuf"] = DmaBufCases.Run,
        ["doctor"] = DoctorReport.Run,
        ["kernel-multicast"] = KernelMulticast.Run,
        ["kernel-peer"] = KernelPeer.Run,
        ["kernel-transports"] = KernelTransports.Run,
        ["our-multicast"] = OurMulticast.Run,
        ["our-peer"] = OurPeer.Run,
        ["our-transports"] = OurTransports.Run,
        ["p2p"] = PeerToPeer.Run,
        ["register-times"] = RegisterTimes.Run,
        ["rping-peer"] = RpingPeer.Run,
        ["rxe-dialogs"] = RxeDialogs.Run,
        ["tcp-receiver"] = TcpReceiver.Run,
        ["wayleave"] = arguments => AppDomain.CurrentDomain.ExecuteAssembly(
            Path.Combine(AppContext.BaseDirectory, "wayleave.dll"), arguments),
    };

    /// <summary>The program of that name: takes its arguments and gives its exit code. Null: there is none.</summary>
    internal static Func<string[], int>? Find(string name) =>
        s_programs.TryGetValue(name, out Func<string[], int>? program)
            ? arguments => Run(name, program, arguments)
            : null;

    private static int Run(string name, Func<string[], int> program, string[] arguments)
    {
        try
        {
            return program(arguments);
        }
        catch (Exception e) when (e is IOException or TimeoutException)
        {
            Console.Error.WriteLine($"{name}: {e.Message}");
            return ExitCodes.Failed;
        }
    }
}
