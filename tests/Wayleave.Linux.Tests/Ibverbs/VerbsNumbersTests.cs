using System.Text;
using Wayleave.Devices.Rdma.Verbs;
using Wayleave.Linux.Tests.Linux;
using Xunit;

namespace Wayleave.Linux.Tests.Ibverbs;

/// <summary>
/// Asks the C compiler whether our enumerations have the numbers of libibverbs: they are handed to C programs as they
/// are.
/// </summary>
public class VerbsNumbersTests
{
    private const string Header = "infiniband/verbs.h";

    // In the order of our numbers, but for None. "-" is one that the installed header may not know.
    private static readonly (Type Type, string Prefix, string Names)[] s_enums =
    [
        (typeof(WorkCompletionStatus), "IBV_WC_",
            "SUCCESS LOC_LEN_ERR LOC_QP_OP_ERR LOC_EEC_OP_ERR LOC_PROT_ERR WR_FLUSH_ERR MW_BIND_ERR BAD_RESP_ERR "
            + "LOC_ACCESS_ERR REM_INV_REQ_ERR REM_ACCESS_ERR REM_OP_ERR RETRY_EXC_ERR RNR_RETRY_EXC_ERR "
            + "LOC_RDD_VIOL_ERR REM_INV_RD_REQ_ERR REM_ABORT_ERR INV_EECN_ERR INV_EEC_STATE_ERR FATAL_ERR "
            + "RESP_TIMEOUT_ERR GENERAL_ERR"),
        (typeof(WorkCompletionOpcode), "IBV_WC_",
            "SEND RDMA_WRITE RDMA_READ COMP_SWAP FETCH_ADD BIND_MW LOCAL_INV - ATOMIC_WRITE RECV RECV_RDMA_WITH_IMM"),
        (typeof(WorkCompletionFlags), "IBV_WC_", "GRH WITH_IMM WITH_INV"),
        (typeof(WorkRequestOpcode), "IBV_WR_",
            "RDMA_WRITE RDMA_WRITE_WITH_IMM SEND SEND_WITH_IMM RDMA_READ ATOMIC_CMP_AND_SWP ATOMIC_FETCH_AND_ADD "
            + "LOCAL_INV BIND_MW SEND_WITH_INV - ATOMIC_WRITE"),
        (typeof(SendFlags), "IBV_SEND_", "FENCE SIGNALED SOLICITED INLINE"),
        (typeof(AccessFlags), "IBV_ACCESS_",
            "LOCAL_WRITE REMOTE_WRITE REMOTE_READ REMOTE_ATOMIC MW_BIND ZERO_BASED ON_DEMAND HUGETLB - - "
            + "RELAXED_ORDERING"),
        (typeof(QueuePairType), "IBV_QPT_", "RC UC UD"),
        (typeof(QueuePairState), "IBV_QPS_", "RESET INIT RTR RTS SQD SQE ERR"),
        (typeof(QueuePairAttributeMask), "IBV_QP_",
            "STATE CUR_STATE EN_SQD_ASYNC_NOTIFY ACCESS_FLAGS PKEY_INDEX PORT QKEY AV PATH_MTU TIMEOUT RETRY_CNT "
            + "RNR_RETRY RQ_PSN MAX_QP_RD_ATOMIC ALT_PATH MIN_RNR_TIMER SQ_PSN MAX_DEST_RD_ATOMIC PATH_MIG_STATE CAP "
            + "DEST_QPN"),
        (typeof(PathMtu), "IBV_MTU_", "256 512 1024 2048 4096"),
        (typeof(AsyncEventType), "IBV_EVENT_",
            "CQ_ERR QP_FATAL QP_REQ_ERR QP_ACCESS_ERR SQ_DRAINED PORT_ACTIVE PORT_ERR SRQ_LIMIT_REACHED "
            + "QP_LAST_WQE_REACHED -"),
        (typeof(MemoryWindowType), "IBV_MW_TYPE_", "1 2"),
        (typeof(PortState), "IBV_PORT_", "DOWN ACTIVE"),
    ];

    public static TheoryData<string> Names => [.. s_enums.Select(e => e.Type.Name)];

    [Theory]
    [MemberData(nameof(Names))]
    public void An_enumeration_has_the_numbers_of_the_installed_header(string name)
    {
        SkipWithoutHeader();
        LayoutTests.Compile(Describe(name));
    }

    [Fact]
    public void A_wrong_number_is_noticed()
    {
        SkipWithoutHeader();
        string program = Describe(nameof(WorkCompletionFlags)).Replace(
            "IBV_WC_WITH_INV == 8", "IBV_WC_WITH_INV == 4", StringComparison.Ordinal);
        Assert.Contains(
            "WITH_INV",
            Assert.Throws<InvalidOperationException>(() => LayoutTests.Compile(program)).Message,
            StringComparison.Ordinal);
    }

    private static void SkipWithoutHeader() =>
        Assert.SkipUnless(File.Exists($"/usr/include/{Header}"), $"no <{Header}> is installed (libibverbs-dev)");

    private static string Describe(string name)
    {
        (Type type, string prefix, string all) = s_enums.Single(e => e.Type.Name == name);
        string[] names = all.Split(' ');
        long[] numbers = [.. Enum.GetValuesAsUnderlyingType(type).Cast<int>().Select(n => (long)n).Order()
            .Where(n => n != 0 || Enum.GetName(type, 0) != "None")];
        Assert.Equal(numbers.Length, names.Length); // every one of ours is named
        StringBuilder program = new($"#include <{Header}>\n");
        for (int i = 0; i < names.Length; i++)
        {
            if (names[i] != "-")
            {
                program.AppendLine(
                    System.Globalization.CultureInfo.InvariantCulture,
                    $"_Static_assert({prefix}{names[i]} == {numbers[i]}, \"{names[i]}\");");
            }
        }

        return program.ToString();
    }
}
